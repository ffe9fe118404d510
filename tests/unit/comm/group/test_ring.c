/* The ring: every reader gets every byte in order, whatever its size and theirs; who waits is woken; what came before
 * the end is read before it. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "comm/base/err.h"
#include "comm/group/ring.h"

enum { SIZE = 4096, TOTAL = 3 << 20 };

static void *make_mem(size_t size, int n_reader)
{
    void *mem = aligned_alloc(64, sk_ring_bytes(size, n_reader));
    assert_non_null(mem);
    memset(mem, 0, sk_ring_bytes(size, n_reader));
    return mem;
}

static uint8_t byte_at(uint64_t i)
{
    return (uint8_t)(i * 7 + (i >> 9));
}

/* Writes TOTAL bytes in pieces of many lengths. */
static int write_all(struct sk_ring *r)
{
    uint8_t piece[1000];
    for (uint64_t at = 0, k = 0; at < TOTAL; k++) {
        size_t n = 1 + k * 37 % sizeof piece;
        if (n > TOTAL - at)
            n = TOTAL - at;
        for (size_t i = 0; i < n; i++)
            piece[i] = byte_at(at + i);
        for (size_t done = 0; done < n;) {
            done += sk_ring_write(r, piece + done, n - done);
            sk_ring_post(r);
            if (done < n && sk_ring_wait_room(r, 0))
                return 1;
        }
        at += n;
    }
    return 0;
}

static int read_all(struct sk_ring *r)
{
    uint8_t piece[700];
    for (uint64_t at = 0, k = 0; at < TOTAL; k++) {
        if (sk_ring_wait(r))
            return 1;
        size_t n = sk_ring_read(r, piece, 1 + k * 13 % sizeof piece);
        for (size_t i = 0; i < n; i++) {
            if (piece[i] != byte_at(at + i))
                return 2;
        }
        at += n;
    }
    return 0;
}

static void *reader(void *arg)
{
    return (void *)(intptr_t)read_all(arg);
}

static void test_room(void **state)
{
    void *mem = make_mem(128, 2);
    struct sk_ring w, a, b;
    char x[200], y[200];
    for (int i = 0; i < 200; i++)
        x[i] = (char)i;
    sk_ring_init(&w, mem, 128, 2, SK_RING_WRITER);
    sk_ring_init(&a, mem, 128, 2, 0);
    sk_ring_init(&b, mem, 128, 2, 1);
    assert_int_equal(sk_ring_write(&w, x, 100), 100);
    assert_int_equal(sk_ring_read(&a, y, 100), 0); /* not posted */
    sk_ring_post(&w);
    assert_int_equal(sk_ring_write(&w, x + 100, 100), 28);
    sk_ring_post(&w);
    assert_int_equal(sk_ring_write(&w, x, 1), 0);
    assert_int_equal(sk_ring_wait_room(&w, 1000), -SK_EAGAIN);
    assert_int_equal(sk_ring_read(&a, y, 200), 128);
    assert_memory_equal(y, x, 128);
    assert_int_equal(sk_ring_write(&w, x, 1), 0); /* b has not read */
    assert_int_equal(sk_ring_read(&b, y, 50), 50);
    assert_int_equal(sk_ring_wait_room(&w, 1000), 0);
    assert_int_equal(sk_ring_write(&w, x + 128, 72), 50);
    sk_ring_post(&w);
    assert_int_equal(sk_ring_read(&b, y + 50, 150), 128);
    assert_memory_equal(y, x, 178);
    free(mem);
}

static void test_threads(void **state)
{
    enum { N = 3 };
    void *mem = make_mem(SIZE, N);
    struct sk_ring w, r[N];
    pthread_t t[N];
    sk_ring_init(&w, mem, SIZE, N, SK_RING_WRITER);
    for (int i = 0; i < N; i++) {
        sk_ring_init(&r[i], mem, SIZE, N, i);
        assert_int_equal(pthread_create(&t[i], NULL, reader, &r[i]), 0);
    }
    assert_int_equal(write_all(&w), 0);
    for (int i = 0; i < N; i++) {
        void *rc;
        pthread_join(t[i], &rc);
        assert_null(rc);
    }
    free(mem);
}

static void test_processes(void **state)
{
    size_t n = sk_ring_bytes(SIZE, 2);
    void *mem = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(mem, MAP_FAILED);
    pid_t pid[2];
    for (int i = 0; i < 2; i++) {
        pid[i] = fork();
        if (pid[i] == 0) {
            struct sk_ring r;
            sk_ring_init(&r, mem, SIZE, 2, i);
            _exit(read_all(&r));
        }
    }
    struct sk_ring w;
    sk_ring_init(&w, mem, SIZE, 2, SK_RING_WRITER);
    assert_int_equal(write_all(&w), 0);
    for (int i = 0; i < 2; i++) {
        int status;
        assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
        assert_int_equal(status, 0);
    }
    munmap(mem, n);
}

static void *wait_for_data(void *arg)
{
    return (void *)(intptr_t)sk_ring_wait(arg);
}

static void *wait_for_room(void *arg)
{
    return (void *)(intptr_t)sk_ring_wait_room(arg, 0);
}

static void test_close(void **state)
{
    void *mem = make_mem(64, 1), *rc;
    struct sk_ring w, r;
    char x[64] = "before the end";
    pthread_t t;
    sk_ring_init(&w, mem, 64, 1, SK_RING_WRITER);
    sk_ring_init(&r, mem, 64, 1, 0);
    assert_int_equal(pthread_create(&t, NULL, wait_for_data, &r), 0);
    usleep(2000); /* likely asleep; right either way */
    sk_ring_close(&w);
    pthread_join(t, &rc);
    assert_int_equal((intptr_t)rc, -SK_EIO);
    assert_true(sk_ring_closed(&r));
    free(mem);

    mem = make_mem(64, 1);
    sk_ring_init(&w, mem, 64, 1, SK_RING_WRITER);
    sk_ring_init(&r, mem, 64, 1, 0);
    assert_int_equal(sk_ring_write(&w, x, 64), 64);
    sk_ring_post(&w);
    assert_int_equal(pthread_create(&t, NULL, wait_for_room, &w), 0);
    usleep(2000);
    sk_ring_close(&r);
    pthread_join(t, &rc);
    assert_int_equal((intptr_t)rc, -SK_EIO);
    assert_int_equal(sk_ring_wait(&r), 0);
    assert_int_equal(sk_ring_read(&r, x, 64), 64);
    assert_int_equal(sk_ring_wait(&r), -SK_EIO);
    free(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_processes),
        cmocka_unit_test(test_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
