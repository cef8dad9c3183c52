/* check.h: must(fact) stops the program when one of our own promises is broken. One fact each;
 * never on input, network or memory. Kept in release builds: a wrong answer is worse. */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

_Noreturn void check_failed(const char *fact, const char *file, int line);

#define must(fact)                                                                                 \
    (__builtin_expect(!(fact), 0) ? check_failed(#fact, __FILE__, __LINE__) : (void)0)

#endif
