/* no_cunit.h: the few names of CUnit that the suites use, for machines without CUnit (a GPU machine
 * that nothing can be installed on). Where CUnit is, it is used. Failures are counted and printed
 * in the same places; a _FATAL one ends its test. */
#ifndef TESTS_NO_CUNIT_H
#define TESTS_NO_CUNIT_H

#include <math.h>
#include <string.h>

typedef struct CU_suite *CU_pSuite;
typedef void CU_TestFunc(void);
enum { CU_BRM_VERBOSE };

void CU_initialize_registry(void);
void CU_cleanup_registry(void);
CU_pSuite CU_add_suite(const char *name, void *init, void *clean);
void CU_add_test(CU_pSuite suite, const char *name, CU_TestFunc *function);
void CU_basic_set_mode(int mode);
void CU_basic_run_tests(void);
unsigned CU_get_number_of_tests_run(void);
unsigned CU_get_number_of_tests_failed(void);
unsigned CU_get_number_of_failures(void);
/* Counts and prints a failure; a fatal one does not return while a test runs. */
void no_cunit_assert(int good, const char *text, const char *file, int line, int fatal);

#define NO_CUNIT(good, text)       no_cunit_assert((good) ? 1 : 0, text, __FILE__, __LINE__, 0)
#define NO_CUNIT_FATAL(good, text) no_cunit_assert((good) ? 1 : 0, text, __FILE__, __LINE__, 1)

#define CU_ASSERT(x)                  NO_CUNIT(x, #x)
#define CU_ASSERT_FATAL(x)            NO_CUNIT_FATAL(x, #x)
#define CU_ASSERT_TRUE(x)             NO_CUNIT(x, "true: " #x)
#define CU_ASSERT_TRUE_FATAL(x)       NO_CUNIT_FATAL(x, "true: " #x)
#define CU_ASSERT_FALSE(x)            NO_CUNIT(!(x), "false: " #x)
#define CU_ASSERT_EQUAL(a, b)         NO_CUNIT((a) == (b), #a " == " #b)
#define CU_ASSERT_EQUAL_FATAL(a, b)   NO_CUNIT_FATAL((a) == (b), #a " == " #b)
#define CU_ASSERT_NOT_EQUAL(a, b)     NO_CUNIT((a) != (b), #a " != " #b)
#define CU_ASSERT_PTR_EQUAL(a, b)     NO_CUNIT((const void *)(a) == (const void *)(b), #a " == " #b)
#define CU_ASSERT_PTR_NOT_EQUAL(a, b) NO_CUNIT((const void *)(a) != (const void *)(b), #a " != " #b)
#define CU_ASSERT_PTR_NOT_EQUAL_FATAL(a, b)                                                        \
    NO_CUNIT_FATAL((const void *)(a) != (const void *)(b), #a " != " #b)
#define CU_ASSERT_PTR_NULL(a)           NO_CUNIT((a) == NULL, #a " is NULL")
#define CU_ASSERT_PTR_NOT_NULL(a)       NO_CUNIT((a) != NULL, #a " is not NULL")
#define CU_ASSERT_PTR_NOT_NULL_FATAL(a) NO_CUNIT_FATAL((a) != NULL, #a " is not NULL")
#define CU_ASSERT_STRING_EQUAL(a, b)    NO_CUNIT(strcmp((a), (b)) == 0, #a " == " #b)
#define CU_ASSERT_DOUBLE_EQUAL(a, b, c)                                                            \
    NO_CUNIT(fabs((double)(a) - (b)) <= fabs((double)(c)), #a " near " #b)
#define CU_FAIL(text) NO_CUNIT(0, text)

#endif
