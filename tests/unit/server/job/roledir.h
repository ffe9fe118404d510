/* An engine directory that skeind takes for one, whose name says what the engine that a test pretends does. */
#ifndef SK_TEST_ROLEDIR_H
#define SK_TEST_ROLEDIR_H

/* Makes it anew at `path`. */
void roledir_make(const char *path);

#endif
