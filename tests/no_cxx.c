/* no_cxx.c: in the place of each suite that runs the GPU's kernels on the CPU, where there is
 * no C++ compiler for them. */
#include "tests/suite.h"

static void test_kernels_are_compiled_for_the_cpu(void)
{
    suite_skip("the build found no C++ compiler for the GPU's kernels");
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {TEST(kernels_are_compiled_for_the_cpu)};
    return suite_run(SUITE, tests, sizeof tests / sizeof *tests, argc, argv);
}
