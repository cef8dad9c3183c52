/* test_seal.c: sealed messages, and masks for what travels unsealed. */
#include <string.h>

#include "base/seal.h"
#include "tests/suite.h"

static void test_seal_opens_only_what_was_sealed(void)
{
    static const uint8_t secret[32] = {1, 2, 3}, other[32] = {1, 2, 4};
    struct seal *mine, *theirs, *stranger, *label;
    uint8_t sealed[100 + SEAL_OVERHEAD], again[100 + SEAL_OVERHEAD], text[100], out[100];
    CU_ASSERT_EQUAL_FATAL(seal_new(secret, 32, "a", &mine), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(seal_new(secret, 32, "a", &theirs), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(seal_new(other, 32, "a", &stranger), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(seal_new(secret, 32, "b", &label), TUTTI_OK);
    for (int i = 0; i < 100; i++)
        text[i] = (uint8_t)i;
    for (int round = 0; round < 3; round++) {
        CU_ASSERT_EQUAL(seal_close(mine, text, 100, sealed), TUTTI_OK);
        CU_ASSERT_EQUAL(seal_open(theirs, sealed, sizeof sealed, out), TUTTI_OK);
        CU_ASSERT_EQUAL(memcmp(text, out, 100), 0);
        CU_ASSERT_EQUAL(seal_open(stranger, sealed, sizeof sealed, out), TUTTI_ERR_AUTH);
        CU_ASSERT_EQUAL(seal_open(label, sealed, sizeof sealed, out), TUTTI_ERR_AUTH);
    }
    CU_ASSERT_EQUAL(seal_close(mine, text, 100, again), TUTTI_OK);
    CU_ASSERT_NOT_EQUAL(memcmp(sealed, again, sizeof sealed), 0);
    for (size_t i = 0; i < sizeof sealed; i++) {
        sealed[i] ^= 0x10;
        CU_ASSERT_EQUAL(seal_open(theirs, sealed, sizeof sealed, out), TUTTI_ERR_AUTH);
        sealed[i] ^= 0x10;
    }
    CU_ASSERT_EQUAL(seal_open(theirs, sealed, SEAL_OVERHEAD - 1, out), TUTTI_ERR_AUTH);
    CU_ASSERT_EQUAL(seal_open(theirs, sealed, sizeof sealed, out), TUTTI_OK);
    seal_free(mine);
    seal_free(theirs);
    seal_free(stranger);
    seal_free(label);
    seal_free(NULL);
}

static void test_seal_masks_never_repeat(void)
{
    static const uint8_t secret[32] = {9};
    struct seal *a, *b;
    uint8_t masks[24][SEAL_MASK_LEN], twin[SEAL_MASK_LEN];
    CU_ASSERT_EQUAL_FATAL(seal_new(secret, 32, "x", &a), TUTTI_OK);
    CU_ASSERT_EQUAL_FATAL(seal_new(secret, 32, "x", &b), TUTTI_OK);
    int count = 0;
    for (uint32_t from = 0; from < 2; from++) {
        for (uint32_t to = 0; to < 3; to++) {
            for (uint64_t n = 0; n < 4; n++) {
                CU_ASSERT_EQUAL(seal_mask(a, from, to, n << 40, masks[count]), TUTTI_OK);
                CU_ASSERT_EQUAL(seal_mask(b, from, to, n << 40, twin), TUTTI_OK);
                CU_ASSERT_EQUAL(memcmp(twin, masks[count], sizeof twin), 0);
                for (int i = 0; i < count; i++)
                    CU_ASSERT_NOT_EQUAL(memcmp(masks[i], masks[count], sizeof twin), 0);
                count++;
            }
        }
    }
    seal_free(a);
    seal_free(b);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(seal_opens_only_what_was_sealed),
        TEST(seal_masks_never_repeat),
    };
    return suite_run("seal", tests, sizeof tests / sizeof *tests, argc, argv);
}
