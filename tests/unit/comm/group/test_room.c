/* Room for shared memory: what is too much is an error with its figures, and never a signal. */
#define _GNU_SOURCE /* memfd_create */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "comm/group/room.h"

static struct sk_err err;

static void test_folder(void **state)
{
    unsetenv("OMPI_MCA_osc_sm_backing_directory");
    assert_string_equal(sk_room_folder(), "/dev/shm");
    assert_int_equal(setenv("OMPI_MCA_osc_sm_backing_directory", "/nowhere", 1), 0);
    assert_int_equal(sk_room_look(1, &err), -SK_EIO);
    assert_int_equal(sk_room_check(1, &err), -SK_EIO);
    assert_non_null(strstr(err.msg, "/nowhere: No such file"));
}

static void test_check(void **state)
{
    assert_int_equal(setenv("OMPI_MCA_osc_sm_backing_directory", ".", 1), 0);
    assert_int_equal(sk_room_look(4096, &err), 0);
    assert_int_equal(sk_room_check(4096, &err), 0);
    assert_int_equal(sk_room_check((size_t)1 << 60, &err), -SK_ENOMEM);
    assert_non_null(strstr(err.msg, "need 1099511627776 MiB of shared memory, but . has"));
}

/* A file of one page, of which two are wanted. */
static void test_touch(void **state)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int fd = memfd_create("room", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)page), 0);
    char *p = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    memset(p, 1, page);
    assert_int_equal(sk_room_touch(p + 64, page - 64, &err), 0);
    assert_int_equal(p[63], 1);
    for (size_t i = 64; i < page; i++)
        assert_int_equal(p[i], 0);
    assert_int_equal(sk_room_touch(p, 2 * page, &err), -SK_ENOMEM);
    munmap(p, 2 * page);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_touch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
