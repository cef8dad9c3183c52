/* peer_gloo.cpp: Gloo as the peer of coll_perf_gloo: the same calls, laid out by cases.c, through
 * Gloo's functions as PyTorch calls them, with the algorithms that they choose, over its TCP
 * transport. The ranks are those of Tutti's communicator, over which their addresses are exchanged.
 * Gloo has no v forms with gaps, no pairwise operation of this kind and no 16-bit float of C: those
 * are not compared; calls that only move data move them as integers of that size. */
#include <gloo/allgather.h>
#include <gloo/allreduce.h>
#include <gloo/alltoall.h>
#include <gloo/barrier.h>
#include <gloo/broadcast.h>
#include <gloo/context.h>
#include <gloo/gather.h>
#include <gloo/math.h>
#include <gloo/reduce.h>
#include <gloo/scatter.h>
#include <gloo/transport/tcp/device.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" {
#include "perf/peer.h"
}

namespace
{

/* Pairs of all ranks, whose addresses travel over Tutti. */
class Mesh : public gloo::Context
{
  public:
    Mesh(int rank, int size) : gloo::Context(rank, size)
    {
    }

    void connect(tutti_comm *comm, const std::shared_ptr<gloo::transport::Device> &device)
    {
        auto made = device->createContext(rank, size);
        std::vector<char> own, all;
        made->setTimeout(getTimeout());
        for (int peer = 0; peer < size; peer++) {
            if (peer == rank)
                continue;
            auto address = made->createPair(peer)->address().bytes();
            own.insert(own.end(), address.begin(), address.end());
        }
        all.resize(own.size() * static_cast<size_t>(size));
        if (tutti_allgather(own.data(), all.data(), own.size(), TUTTI_UINT8, comm) != TUTTI_OK)
            throw std::runtime_error(tutti_last_error());
        long each = size > 1 ? static_cast<long>(own.size()) / (size - 1) : 0;
        for (int peer = 0; peer < size; peer++) {
            auto at = all.begin() + each * (peer * (size - 1) + rank - (rank > peer));
            if (peer != rank)
                made->getPair(peer)->connect(std::vector<char>(at, at + each));
        }
        device_ = device;
        transportContext_ = std::move(made);
    }
};

std::shared_ptr<Mesh> context;
std::vector<char> landing; /* of a reduce, at ranks that get no result */

using Reduction = void (*)(void *, const void *, const void *, size_t);

template <typename T> Reduction reduction_of(unsigned op)
{
    switch (op) {
    case TUTTI_SUM:
        return gloo::sum<T>;
    case TUTTI_PROD:
        return gloo::product<T>;
    case TUTTI_MIN:
        return gloo::min<T>;
    case TUTTI_MAX:
        return gloo::max<T>;
    default:
        return nullptr;
    }
}

Reduction reduction(const struct call *c)
{
    switch (c->dtype) {
    case TUTTI_INT8:
        return reduction_of<int8_t>(c->op_choice);
    case TUTTI_UINT8:
        return reduction_of<uint8_t>(c->op_choice);
    case TUTTI_INT32:
        return reduction_of<int32_t>(c->op_choice);
    case TUTTI_INT64:
        return reduction_of<int64_t>(c->op_choice);
    case TUTTI_FLOAT32:
        return reduction_of<float>(c->op_choice);
    case TUTTI_FLOAT64:
        return reduction_of<double>(c->op_choice);
    default:
        return nullptr;
    }
}

bool supports(const struct call *c)
{
    switch (c->row->coll) {
    case TUTTI_COLL_ALLREDUCE:
    case TUTTI_COLL_REDUCE:
        return reduction(c) != nullptr;
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_BROADCAST:
    case TUTTI_COLL_GATHER: /* in place at the root, who copies its block to where it is */
    case TUTTI_COLL_SCATTER:
    case TUTTI_COLL_BARRIER:
        return true;
    case TUTTI_COLL_ALLTOALL:
        return !c->in_place;
    default:
        return false;
    }
}

template <typename T> void reduce(const struct call *c, T *in, T *out)
{
    if (c->row->coll == TUTTI_COLL_ALLREDUCE) {
        gloo::AllreduceOptions options(context);
        if (!c->in_place)
            options.setInput(in, c->count);
        options.setOutput(out, c->count);
        options.setReduceFunction(reduction(c));
        gloo::allreduce(options);
        return;
    }
    gloo::ReduceOptions options(context);
    if (c->rank != c->root && landing.size() < c->count * sizeof(T))
        landing.resize(c->count * sizeof(T));
    if (!c->in_place || c->rank != c->root)
        options.setInput(in, c->count);
    options.setOutput(c->rank == c->root ? out : reinterpret_cast<T *>(landing.data()), c->count);
    options.setRoot(c->root);
    options.setReduceFunction(reduction(c));
    gloo::reduce(options);
}

template <typename T> void move_rooted(const struct call *c, T *in, T *out)
{
    size_t size = static_cast<size_t>(c->size);
    if (c->row->coll == TUTTI_COLL_BROADCAST) { /* Gloo's output is everybody's; the root's is in */
        gloo::BroadcastOptions options(context);
        options.setOutput(c->rank == c->root ? in : out, c->count);
        options.setRoot(c->root);
        gloo::broadcast(options);
    } else if (c->row->coll == TUTTI_COLL_GATHER) {
        gloo::GatherOptions options(context);
        options.setInput(in, c->count);
        if (c->rank == c->root)
            options.setOutput(out, c->count * size);
        options.setRoot(c->root);
        gloo::gather(options);
    } else {
        gloo::ScatterOptions options(context);
        std::vector<T *> inputs;
        for (size_t r = 0; r < size && c->rank == c->root; r++)
            inputs.push_back(in + r * c->count);
        if (!inputs.empty())
            options.setInputs(inputs, c->count);
        options.setOutput(out, c->count);
        options.setRoot(c->root);
        gloo::scatter(options);
    }
}

template <typename T> void run_typed(const struct call *c)
{
    T *in = static_cast<T *>(const_cast<void *>(c->in)), *out = static_cast<T *>(c->out);
    size_t all = c->count * static_cast<size_t>(c->size);
    if (c->row->reduces) {
        reduce(c, in, out);
    } else if (c->row->has_root) {
        move_rooted(c, in, out);
    } else if (c->row->coll == TUTTI_COLL_ALLGATHER) {
        gloo::AllgatherOptions options(context);
        if (!c->in_place)
            options.setInput(in, c->count);
        options.setOutput(out, all);
        gloo::allgather(options);
    } else {
        gloo::AlltoallOptions options(context);
        options.setInput(in, all);
        options.setOutput(out, all);
        gloo::alltoall(options);
    }
}

void barrier_all()
{
    gloo::BarrierOptions options(context);
    gloo::barrier(options);
}

int run(const struct call *c)
{
    try {
        if (c->row->coll == TUTTI_COLL_BARRIER)
            barrier_all();
        else if (c->elem_size == 1)
            run_typed<uint8_t>(c);
        else if (c->elem_size == 2)
            run_typed<uint16_t>(c);
        else if (c->elem_size == 4)
            run_typed<uint32_t>(c);
        else
            run_typed<uint64_t>(c);
        return 0;
    } catch (const std::exception &e) {
        std::fprintf(stderr, "coll_perf: gloo: %s\n", e.what());
        return 1;
    }
}

void barrier()
{
    try {
        barrier_all();
    } catch (const std::exception &e) {
        std::fprintf(stderr, "coll_perf: gloo: %s\n", e.what());
        std::exit(EXIT_RUN);
    }
}

/* Pages as an allocator gives them to a program that asks for tensors. */
void *allocate(size_t bytes)
{
    void *memory = nullptr;
    return posix_memalign(&memory, 64, bytes) == 0 ? memory : nullptr;
}

bool start(tutti_comm *comm)
{
    int rank = 0, size = 1, hosts = 1;
    tutti_comm_rank(comm, &rank);
    tutti_comm_size(comm, &size);
    tutti_comm_host_count(comm, &hosts);
    try {
        gloo::transport::tcp::attr attr;
        if (hosts == 1)
            attr.hostname = "localhost";
        auto device = gloo::transport::tcp::CreateDevice(attr);
        context = std::make_shared<Mesh>(rank, size);
        context->connect(comm, device);
        return true;
    } catch (const std::exception &e) {
        std::fprintf(stderr, "coll_perf: rank %d cannot start gloo: %s\n", rank, e.what());
        return false;
    }
}

const struct peer *make_peer()
{
    static struct peer peer = {};
    peer.name = "gloo";
    peer.start = start;
    peer.supports = supports;
    peer.run = run;
    peer.barrier = barrier;
    peer.alloc = allocate;
    peer.free = std::free;
    return &peer;
}

} // namespace

extern "C" const struct peer *peer_open(int *, char ***)
{
    return make_peer();
}

extern "C" int peer_exec(const struct options *, int, char **)
{
    return EXIT_RUN; /* never called: this program has its peer */
}
