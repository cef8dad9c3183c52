/* test_verbs_memory.c: what is registered with adapters, over a device that only counts. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "mem/device.h"
#include "tests/gpu.h"
#include "tests/verbs_rig.h"

static atomic_int pinned; /* registrations of the device */

static struct ibv_mr *pin(struct ibv_pd *pd, void *data, size_t len, int access)
{
    static struct ibv_mr mr;
    (void)pd, (void)data, (void)len, (void)access;
    pinned++;
    return &mr;
}

static int unpin(struct ibv_mr *mr)
{
    (void)mr;
    pinned--;
    return 0;
}

static struct verbs_rig *make_pinning_rig(void)
{
    struct verbs_rig *rig = verbs_rig_make();
    rig->verbs.rail_count = 1;
    rig->verbs.rails[0].verbs = &rig->verbs;
    rig->library.ibv.reg_mr = pin;
    rig->library.ibv.dereg_mr = unpin;
    pinned = 0;
    return rig;
}

/* Its address may be that of other memory by now. */
static void test_verbs_memory_that_is_forgotten_is_found_no_more(void)
{
    static char data[4096];
    struct verbs_rig *rig = make_pinning_rig();
    struct verbs_region *made, *used;
    CU_ASSERT_EQUAL(memory_add(&rig->verbs, data, sizeof data, &made), TUTTI_OK);
    CU_ASSERT_EQUAL(pinned, VERBS_ACCESSES);
    memory_forget(&rig->verbs, made);
    CU_ASSERT_EQUAL(pinned, VERBS_ACCESSES);
    CU_ASSERT_EQUAL(memory_use(&rig->verbs, data, 64, VERBS_ACCESS_SEND, &used), TUTTI_OK);
    CU_ASSERT_EQUAL(used->kind, VERBS_REGION_ONCE);
    CU_ASSERT_EQUAL(pinned, 1);
    memory_release(&rig->verbs, used);
    CU_ASSERT_EQUAL(pinned, 0);
    CU_ASSERT_PTR_NULL(rig->verbs.regions);
    verbs_rig_free(rig);
}

static void test_verbs_memory_that_is_forgotten_in_use_goes_with_the_last(void)
{
    static char data[4096];
    struct verbs_rig *rig = make_pinning_rig();
    struct verbs_region *made, *used;
    CU_ASSERT_EQUAL(memory_add(&rig->verbs, data, sizeof data, &made), TUTTI_OK);
    CU_ASSERT_EQUAL(memory_use(&rig->verbs, data, 64, VERBS_ACCESS_SEND, &used), TUTTI_OK);
    CU_ASSERT_PTR_EQUAL(used, made);
    memory_forget(&rig->verbs, made);
    memory_sweep(&rig->verbs);
    CU_ASSERT_EQUAL(pinned, VERBS_ACCESSES);
    memory_release(&rig->verbs, used);
    CU_ASSERT_EQUAL(pinned, 0);
    CU_ASSERT_PTR_NULL(rig->verbs.regions);
    verbs_rig_free(rig);
}

static char beside[4096];

static void *add_and_forget(void *verbs)
{
    int wrong = 0;
    for (int i = 0; i < 2000; i++) {
        struct verbs_region *made;
        wrong += memory_add(verbs, beside, sizeof beside, &made) != TUTTI_OK;
        memory_forget(verbs, made);
    }
    return wrong == 0 ? verbs : NULL;
}

/* Who registers is in nobody's way, nor is anybody in his. */
static void test_verbs_memory_is_registered_beside_transfers(void)
{
    struct verbs_rig *rig = make_pinning_rig();
    struct verbs_region *made, *used;
    pthread_t other;
    void *good;
    CU_ASSERT_EQUAL(memory_add(&rig->verbs, beside, sizeof beside, &made), TUTTI_OK);
    CU_ASSERT_PTR_NULL(rig->verbs.regions); /* that is for who is inside */
    CU_ASSERT_EQUAL_FATAL(pthread_create(&other, NULL, add_and_forget, &rig->verbs), 0);
    for (int i = 0; i < 2000; i++) {
        CU_ASSERT_EQUAL_FATAL(memory_use(&rig->verbs, beside, 64, VERBS_ACCESS_SEND, &used),
                              TUTTI_OK);
        CU_ASSERT_EQUAL(used->kind, VERBS_REGION_EXPLICIT);
        memory_release(&rig->verbs, used);
    }
    pthread_join(other, &good);
    CU_ASSERT_PTR_NOT_NULL(good);
    memory_remove(&rig->verbs, made);
    memory_sweep(&rig->verbs);
    CU_ASSERT_EQUAL(pinned, 0);
    CU_ASSERT_PTR_NULL(rig->verbs.regions);
    CU_ASSERT_EQUAL(rig->verbs.region_count, 0);
    verbs_rig_free(rig);
}

static struct ibv_mr *pin_nothing(struct ibv_pd *pd, void *data, size_t len, int access)
{
    (void)pd, (void)data, (void)len, (void)access;
    errno = EFAULT;
    return NULL;
}

/* Without nvidia-peermem the kernel finds no memory at such addresses. */
static void test_verbs_memory_of_gpus_is_not_registered_by_its_address(void)
{
    const struct gpu *gpu = gpu_open();
    struct mem_device *device;
    cuda_address memory;
    if (!gpu || mem_device_open(&device) != TUTTI_OK ||
        gpu->alloc(&memory, 4096) != CUDA_DRIVER_OK) {
        suite_skip("wants a GPU, or the stand-in's");
        return;
    }
    struct verbs_rig *rig = make_pinning_rig();
    struct verbs_region *made;
    rig->library.ibv.reg_mr = pin_nothing;
    CU_ASSERT_EQUAL(memory_add(&rig->verbs, (void *)(uintptr_t)memory, 4096, &made), TUTTI_OK);
    memory_remove(&rig->verbs, made);
    CU_ASSERT_EQUAL(gpu->free(memory), CUDA_DRIVER_OK);
    verbs_rig_free(rig);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(verbs_memory_that_is_forgotten_is_found_no_more),
        TEST(verbs_memory_that_is_forgotten_in_use_goes_with_the_last),
        TEST(verbs_memory_is_registered_beside_transfers),
        TEST(verbs_memory_of_gpus_is_not_registered_by_its_address),
    };
    return suite_run("verbs_memory", tests, sizeof tests / sizeof *tests, argc, argv);
}
