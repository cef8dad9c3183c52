/* test_coll.c: what collectives mean as arithmetic, groups of ranks, trees. */
#include <string.h>

#include "algorithms/coll.h"
#include "tests/suite.h"

static struct groups four;

static struct shape shape_of(tutti_coll coll, uint64_t count)
{
    return (struct shape){
        .coll = coll, .rank = 1, .size = 4, .count = count, .elem_size = 1, .groups = &four};
}

static void test_coll_blocks_tile_their_buffer(void)
{
    for (uint64_t count = 0; count < 40; count++) {
        struct shape shape = shape_of(TUTTI_COLL_ALLREDUCE, count);
        shape.elem_size = 8;
        uint64_t at = 0;
        for (uint32_t r = 0; r < shape.size; r++) {
            struct block block = coll_block(&shape, r);
            CU_ASSERT_EQUAL(block.off, at);
            CU_ASSERT(block.len / 8 == count / 4 || block.len / 8 == count / 4 + 1);
            at += block.len;
        }
        CU_ASSERT_EQUAL(at, coll_in_bytes(&shape));
    }
}

static void test_coll_sizes_are_those_of_the_public_header(void)
{
    /* rank 1 of 4, root 1 and root 0: elements of in and out per count. */
    static const struct {
        tutti_coll coll;
        uint64_t in_root, out_root, in_leaf, out_leaf, total;
        int64_t alias_root;
        double factor;
    } rows[] = {
        {TUTTI_COLL_ALLREDUCE, 1, 1, 1, 1, 1, 0, 1.5},
        {TUTTI_COLL_ALLGATHER, 1, 4, 1, 4, 4, 7, 0.75},
        {TUTTI_COLL_REDUCE_SCATTER, 4, 1, 4, 1, 4, -7, 0.75},
        {TUTTI_COLL_BROADCAST, 1, 1, 0, 1, 1, 0, 1},
        {TUTTI_COLL_REDUCE, 1, 1, 1, 0, 1, 0, 1},
        {TUTTI_COLL_GATHER, 1, 4, 1, 0, 4, 7, 0.75},
        {TUTTI_COLL_SCATTER, 4, 1, 0, 1, 4, -7, 0.75},
        {TUTTI_COLL_ALLTOALL, 4, 4, 4, 4, 4, 0, 0.75},
        {TUTTI_COLL_BARRIER, 0, 0, 0, 0, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct shape shape = shape_of(rows[i].coll, 7);
        shape.root = 1;
        CU_ASSERT_EQUAL(coll_in_bytes(&shape), 7 * rows[i].in_root);
        CU_ASSERT_EQUAL(coll_out_bytes(&shape), 7 * rows[i].out_root);
        CU_ASSERT_EQUAL(coll_total_bytes(&shape), 7 * rows[i].total);
        CU_ASSERT_EQUAL(coll_alias_delta(&shape), rows[i].alias_root);
        CU_ASSERT_DOUBLE_EQUAL(coll_bus_factor(rows[i].coll, 4), rows[i].factor, 1e-12);
        shape.root = 0;
        CU_ASSERT_EQUAL(coll_in_bytes(&shape), 7 * rows[i].in_leaf);
        CU_ASSERT_EQUAL(coll_out_bytes(&shape), 7 * rows[i].out_leaf);
        CU_ASSERT_STRING_EQUAL(coll_info(rows[i].coll)->name, coll_name(rows[i].coll));
    }
}

static void test_coll_groups_number_nodes_by_first_appearance(void)
{
    static const uint32_t ids[] = {70, 5, 70, 70, 9, 5, 0};
    static const uint32_t node_of[] = {0, 1, 0, 0, 2, 1, 3}, members[] = {0, 2, 3, 1, 5, 4, 6};
    static const uint32_t first[] = {0, 3, 5, 6, 7}, index[] = {0, 0, 1, 2, 0, 1, 0};
    struct groups groups;
    CU_ASSERT_EQUAL_FATAL(groups_make(7, ids, &groups), TUTTI_OK);
    CU_ASSERT_EQUAL(groups.nodes, 4);
    CU_ASSERT(!groups.uniform);
    CU_ASSERT_EQUAL(memcmp(groups.node_of, node_of, sizeof node_of), 0);
    CU_ASSERT_EQUAL(memcmp(groups.members, members, sizeof members), 0);
    CU_ASSERT_EQUAL(memcmp(groups.first, first, sizeof first), 0);
    CU_ASSERT_EQUAL(memcmp(groups.index_in_node, index, sizeof index), 0);
    struct team team = team_node(&groups, 3);
    CU_ASSERT(team.size == 3 && team.me == 2 && team_rank(&team, 1) == 2);
    groups_free(&groups);
    CU_ASSERT_EQUAL_FATAL(groups_make_uniform(3, 4, &groups), TUTTI_OK);
    CU_ASSERT(groups.uniform && groups.nodes == 3 && groups.size == 12);
    team = team_rail(&groups, 6);
    CU_ASSERT(team.size == 3 && team.me == 1);
    CU_ASSERT(team_rank(&team, 0) == 2 && team_rank(&team, 2) == 10);
    team = team_world(12, 5);
    CU_ASSERT(team.size == 12 && team.me == 5 && team_rank(&team, 7) == 7);
    groups_free(&groups);
}

/* Parents and children agree, and everybody hangs on one root. Returns the height. */
static uint32_t check_tree(uint32_t size, const struct tree_links *links, uint32_t root)
{
    uint32_t height = 0;
    for (uint32_t r = 0; r < size; r++) {
        for (uint32_t i = 0; i < links[r].children; i++)
            CU_ASSERT_FATAL(links[r].child[i] < size && links[links[r].child[i]].parent == r);
        uint32_t at = r, steps = 0;
        for (; links[at].parent != NO_RANK && steps <= size; steps++)
            at = links[at].parent;
        CU_ASSERT_EQUAL(at, root);
        height = steps > height ? steps : height;
    }
    uint32_t edges = 0;
    for (uint32_t r = 0; r < size; r++)
        edges += links[r].children;
    CU_ASSERT_EQUAL(edges, size - 1);
    return height;
}

static void test_coll_trees_are_trees(void)
{
    static struct tree_links links[2][130];
    for (uint32_t size = 1; size <= 130; size++) {
        for (uint32_t root = 0; root < size; root += 1 + size / 3) {
            for (uint32_t r = 0; r < size; r++)
                tree_binomial(size, r, root, &links[0][r]);
            CU_ASSERT(check_tree(size, links[0], root) <= ceil_log2(size));
            CU_ASSERT(links[0][root].children == ceil_log2(size));
        }
        uint32_t both = 0;
        for (uint32_t which = 0; which < 2; which++) {
            uint32_t root = NO_RANK;
            for (uint32_t r = 0; r < size; r++) {
                tree_double(size, r, which, &links[which][r]);
                CU_ASSERT(links[which][r].children <= 2);
                if (links[which][r].parent == NO_RANK)
                    root = r;
            }
            CU_ASSERT(check_tree(size, links[which], root) <= ceil_log2(size + 1) - 1);
        }
        for (uint32_t r = 0; r < size; r++)
            both += links[0][r].children > 0 && links[1][r].children > 0;
        CU_ASSERT_EQUAL(both, 0);
    }
    CU_ASSERT(ceil_log2(1) == 0 && ceil_log2(2) == 1 && ceil_log2(5) == 3 && ceil_log2(64) == 6);
}

int main(int argc, char **argv)
{
    static const struct suite_test tests[] = {
        TEST(coll_blocks_tile_their_buffer),
        TEST(coll_sizes_are_those_of_the_public_header),
        TEST(coll_groups_number_nodes_by_first_appearance),
        TEST(coll_trees_are_trees),
    };
    if (groups_make_uniform(1, 4, &four) != TUTTI_OK)
        return 1;
    int failed = suite_run("coll", tests, sizeof tests / sizeof *tests, argc, argv);
    groups_free(&four);
    return failed;
}
