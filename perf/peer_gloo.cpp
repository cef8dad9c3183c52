/* peer_gloo.cpp: Gloo as the peer of coll_perf_gloo: the same calls, laid out by cases.c, over
 * Gloo's TCP transport. The ranks are those of Tutti's communicator, over which their addresses
 * travel.
 *
 * Gloo leaves the choice of an algorithm to its user, and has some that only its benchmark uses. So
 * that it is seen at its best, every way to do a call is tried when the call is met first, at all
 * ranks, and the fastest is timed. A way is: one of the functions that PyTorch calls, its options
 * made once; or an object of the older kind, whose connections either are served by Gloo's thread
 * or are read by the caller itself ("sync" of Gloo's benchmark), asleep or polling. With the latter
 * a rank writes all before it reads, so long messages would wait for each other for ever.
 *
 * Gloo has no v forms with gaps, no shift of data round the ranks, no reduce-scatter out of place,
 * and no reductions but sum, prod, min and max: those are not compared. */
#include <gloo/allgather.h>
#include <gloo/allgather_ring.h>
#include <gloo/allreduce.h>
#include <gloo/allreduce_halving_doubling.h>
#include <gloo/allreduce_ring.h>
#include <gloo/allreduce_ring_chunked.h>
#include <gloo/alltoall.h>
#include <gloo/barrier.h>
#include <gloo/broadcast.h>
#include <gloo/config.h>
#include <gloo/context.h>
#include <gloo/gather.h>
#include <gloo/math.h>
#include <gloo/reduce.h>
#include <gloo/scatter.h>
#include <gloo/transport/tcp/device.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
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

    void read_by_caller(bool polling)
    {
        for (int peer = 0; peer < size; peer++) {
            if (peer != rank)
                getPair(peer)->setSync(true, polling);
        }
    }
};

enum mode { SERVED, ASLEEP, POLLING, MODES };
enum { READ_BY_CALLER_MOST = 65536 }; /* bytes that fit the sockets' buffers */
std::shared_ptr<Mesh> meshes[MODES];
std::vector<char> landing; /* of a reduce, at ranks that get no result */

using Call = struct call;
using Step = std::function<void()>;
using Way = std::function<Step()>; /* makes what a way needs, once */

/* Applies f to a value of the type's C++ type; false: Gloo does not reduce that type. */
template <typename F> bool with_type(tutti_dtype dtype, F f)
{
    switch (dtype) {
    case TUTTI_INT8:
        return f(int8_t());
    case TUTTI_UINT8:
        return f(uint8_t());
    case TUTTI_INT16:
        return f(int16_t());
    case TUTTI_UINT16:
        return f(uint16_t());
    case TUTTI_INT32:
        return f(int32_t());
    case TUTTI_UINT32:
        return f(uint32_t());
    case TUTTI_INT64:
        return f(int64_t());
    case TUTTI_UINT64:
        return f(uint64_t());
    case TUTTI_FLOAT32:
        return f(float());
    case TUTTI_FLOAT64:
        return f(double());
    default:
        return false;
    }
}

/* What both kinds of functions want; fn is NULL for an operation that Gloo does not have. */
template <typename T> struct Reduction {
    void (*fn)(void *, const void *, const void *, size_t) = nullptr;
    const gloo::ReductionFunction<T> *object = nullptr;

    explicit Reduction(unsigned op)
    {
        using function = gloo::ReductionFunction<T>;
        if (op == TUTTI_SUM)
            fn = gloo::sum<T>, object = function::sum;
        else if (op == TUTTI_PROD)
            fn = gloo::product<T>, object = function::product;
        else if (op == TUTTI_MIN)
            fn = gloo::min<T>, object = function::min;
        else if (op == TUTTI_MAX)
            fn = gloo::max<T>, object = function::max;
    }
};

/* ---- the ways to do a call ----------------------------------------------------------------------
 */

template <typename T> T *in_of(const Call *c)
{
    return static_cast<T *>(const_cast<void *>(c->in));
}

template <typename T> T *out_of(const Call *c)
{
    return static_cast<T *>(c->out);
}

/* Older objects, each in the modes that its size allows. */
template <typename Make> void add_objects(std::vector<Way> &ways, const Call *c, Make make)
{
    int modes = c->size == 1 ? 0 : c->bytes <= READ_BY_CALLER_MOST ? MODES : ASLEEP;
    for (int mode = 0; mode < modes; mode++)
        ways.push_back([make, mode] { return make(meshes[mode]); });
}

template <typename Algorithm, typename T>
void add_allreduce(std::vector<Way> &ways, const Call *c, const Reduction<T> &reduction)
{
    T *in = in_of<T>(c), *out = out_of<T>(c);
    size_t count = c->count;
    auto object = reduction.object;
    add_objects(ways, c, [=](const std::shared_ptr<Mesh> &mesh) -> Step {
        auto algorithm = std::make_shared<Algorithm>(mesh, std::vector<T *>{out},
                                                     static_cast<int>(count), object);
        return [=] {
            if (in != out)
                std::memcpy(out, in, count * sizeof(T));
            algorithm->run();
        };
    });
}

template <typename T> std::vector<Way> ways_to_allreduce(const Call *c)
{
    using Options = gloo::AllreduceOptions;
    std::vector<Way> ways;
    Reduction<T> reduction(c->op_choice);
    T *in = in_of<T>(c), *out = out_of<T>(c);
    size_t count = c->count;
    auto fn = reduction.fn;
    add_allreduce<gloo::AllreduceRing<T>>(ways, c, reduction);
    add_allreduce<gloo::AllreduceRingChunked<T>>(ways, c, reduction);
    add_allreduce<gloo::AllreduceHalvingDoubling<T>>(ways, c, reduction);
    /* Last, since the ring can stall for seconds where ranks share cores. */
    for (auto algorithm : {Options::Algorithm::BCUBE, Options::Algorithm::RING}) {
        ways.push_back([=]() -> Step {
            auto options = std::make_shared<Options>(meshes[SERVED]);
            options->setAlgorithm(algorithm);
            if (in != out)
                options->setInput(in, count);
            options->setOutput(out, count);
            options->setReduceFunction(fn);
            return [=] { gloo::allreduce(*options); };
        });
    }
    return ways;
}

template <typename T> Step reduce(const Call *c)
{
    auto options = std::make_shared<gloo::ReduceOptions>(meshes[SERVED]);
    bool root = c->rank == c->root;
    if (!root && landing.size() < c->count * sizeof(T))
        landing.resize(c->count * sizeof(T));
    if (!c->in_place || !root)
        options->setInput(in_of<T>(c), c->count);
    options->setOutput(root ? out_of<T>(c) : reinterpret_cast<T *>(landing.data()), c->count);
    options->setRoot(c->root);
    options->setReduceFunction(Reduction<T>(c->op_choice).fn);
    return [options] { gloo::reduce(*options); };
}

/* The rest moves bytes. */
std::vector<Way> ways_to_allgather(const Call *c)
{
    std::vector<Way> ways;
    char *in = in_of<char>(c), *out = out_of<char>(c);
    size_t len = c->count * c->elem_size, all = len * static_cast<size_t>(c->size);
    bool in_place = c->in_place;
    ways.push_back([=]() -> Step {
        auto options = std::make_shared<gloo::AllgatherOptions>(meshes[SERVED]);
        if (!in_place)
            options->setInput(in, len);
        options->setOutput(out, all);
        return [=] { gloo::allgather(*options); };
    });
    add_objects(ways, c, [=](const std::shared_ptr<Mesh> &mesh) -> Step {
        auto algorithm = std::make_shared<gloo::AllgatherRing<char>>(
            mesh, std::vector<const char *>{in}, out, static_cast<int>(len));
        return [=] { algorithm->run(); };
    });
    return ways;
}

Step alltoall(const Call *c)
{
    auto options = std::make_shared<gloo::AlltoallOptions>(meshes[SERVED]);
    options->setInput(in_of<char>(c), c->bytes);
    options->setOutput(out_of<char>(c), c->bytes);
    return [options] { gloo::alltoall(*options); };
}

Step broadcast(const Call *c) /* Gloo's output is everybody's; the root's is in */
{
    auto options = std::make_shared<gloo::BroadcastOptions>(meshes[SERVED]);
    options->setOutput(c->rank == c->root ? in_of<char>(c) : out_of<char>(c), c->bytes);
    options->setRoot(c->root);
    return [options] { gloo::broadcast(*options); };
}

Step gather(const Call *c)
{
    auto options = std::make_shared<gloo::GatherOptions>(meshes[SERVED]);
    size_t len = c->count * c->elem_size;
    options->setInput(in_of<char>(c), len);
    if (c->rank == c->root)
        options->setOutput(out_of<char>(c), len * static_cast<size_t>(c->size));
    options->setRoot(c->root);
    return [options] { gloo::gather(*options); };
}

Step scatter(const Call *c)
{
    auto options = std::make_shared<gloo::ScatterOptions>(meshes[SERVED]);
    size_t len = c->count * c->elem_size;
    std::vector<char *> inputs;
    for (size_t r = 0; r < static_cast<size_t>(c->size) && c->rank == c->root; r++)
        inputs.push_back(in_of<char>(c) + r * len);
    if (!inputs.empty())
        options->setInputs(inputs, len);
    options->setOutput(out_of<char>(c), len);
    options->setRoot(c->root);
    return [options] { gloo::scatter(*options); };
}

void barrier_all()
{
    gloo::BarrierOptions options(meshes[SERVED]);
    gloo::barrier(options);
}

std::vector<Way> ways_to_do(const Call *call)
{
    std::vector<Way> ways;
    Call copy = *call; /* by value: bench.c changes its own */
    auto only = [&](Step (*make)(const Call *)) {
        ways.push_back([copy, make] { return make(&copy); });
    };
    switch (call->row->coll) {
    case TUTTI_COLL_ALLREDUCE:
        with_type(call->dtype, [&](auto value) {
            ways = ways_to_allreduce<decltype(value)>(call);
            return true;
        });
        break;
    case TUTTI_COLL_REDUCE:
        with_type(call->dtype, [&](auto value) {
            only(reduce<decltype(value)>);
            return true;
        });
        break;
    case TUTTI_COLL_ALLGATHER:
        ways = ways_to_allgather(call);
        break;
    case TUTTI_COLL_ALLTOALL:
        only(alltoall);
        break;
    case TUTTI_COLL_BROADCAST:
        only(broadcast);
        break;
    case TUTTI_COLL_GATHER:
        only(gather);
        break;
    case TUTTI_COLL_SCATTER:
        only(scatter);
        break;
    default:
        ways.push_back([] { return Step(barrier_all); });
        break;
    }
    return ways;
}

/* ---- choosing -----------------------------------------------------------------------------------
 */

double greatest(double value)
{
    gloo::AllreduceOptions options(meshes[SERVED]);
    options.setOutput(&value, 1);
    options.setReduceFunction(Reduction<double>(TUTTI_MAX).fn);
    gloo::allreduce(options);
    return value;
}

/* Microseconds of a call in a row of some, at the slowest rank. */
double time_calls(const Step &step, int calls)
{
    barrier_all();
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; i++)
        step();
    std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    return greatest(took.count() / calls);
}

enum { FIRST = 4, LOOPS = 5, LOOP_US = 1000, CALLS_MOST = 30, HOPELESS = 4, CHANCE_US = 50000 };

/* The least of some loops; where the first calls all took far longer than the best way yet, that:
 * one call where it was longer than the scheduler's doing can explain. */
double try_out(const Step &step, double best_us)
{
    double least = time_calls(step, 1), hopeless_us = HOPELESS * best_us;
    for (int i = 1; i < FIRST && least >= hopeless_us && least < CHANCE_US; i++)
        least = std::min(least, time_calls(step, 1));
    int calls = std::max(1, static_cast<int>(std::min<double>(CALLS_MOST, LOOP_US / least)));
    for (int loop = 0; loop < LOOPS && least < hopeless_us; loop++)
        least = std::min(least, time_calls(step, calls));
    return least;
}

Step fastest_of(const std::vector<Way> &ways)
{
    if (ways.size() == 1)
        return ways[0]();
    Step best;
    double best_us = std::numeric_limits<double>::infinity();
    for (const Way &way : ways) {
        Step step = way();
        double us = try_out(step, best_us);
        if (us < best_us) {
            best_us = us;
            best = step;
        }
        step = nullptr;
        barrier_all(); /* nobody writes any more to what is given up */
    }
    return best;
}

/* The call in hand and what does it. */
Call known;
Step chosen;

bool same(const Call *a, const Call *b)
{
    return a->row == b->row && a->in == b->in && a->out == b->out && a->count == b->count &&
           a->bytes == b->bytes && a->dtype == b->dtype && a->op_choice == b->op_choice &&
           a->root == b->root && a->in_place == b->in_place;
}

/* ---- struct peer --------------------------------------------------------------------------------
 */

bool supports(const Call *c)
{
    switch (c->row->coll) {
    case TUTTI_COLL_ALLREDUCE:
    case TUTTI_COLL_REDUCE:
        return c->bytes <= INT_MAX && with_type(c->dtype, [&](auto value) {
                   return Reduction<decltype(value)>(c->op_choice).fn != nullptr;
               });
    case TUTTI_COLL_ALLGATHER:
    case TUTTI_COLL_BROADCAST:
    case TUTTI_COLL_GATHER: /* in place at the root, who copies its block to where it is */
    case TUTTI_COLL_SCATTER:
    case TUTTI_COLL_BARRIER:
        return c->bytes <= INT_MAX;
    case TUTTI_COLL_ALLTOALL:
        return c->bytes <= INT_MAX && !c->in_place;
    default:
        return false;
    }
}

bool comparable(const Call *c)
{
    return c->row->coll != TUTTI_COLL_BROADCAST || c->rank != c->root || c->in_place;
}

int complain(const std::exception &e)
{
    std::fprintf(stderr, "coll_perf: gloo: %s\n", e.what());
    return 1;
}

int run(const Call *c)
{
    try {
        if (!chosen || !same(c, &known)) {
            chosen = nullptr;
            chosen = fastest_of(ways_to_do(c));
            known = *c;
        }
        chosen();
        return 0;
    } catch (const std::exception &e) {
        return complain(e);
    }
}

void barrier()
{
    try {
        barrier_all();
    } catch (const std::exception &e) {
        complain(e);
        std::exit(EXIT_RUN);
    }
}

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
        for (int mode = 0; mode < MODES; mode++) {
            meshes[mode] = std::make_shared<Mesh>(rank, size);
            meshes[mode]->connect(comm, device);
            if (mode != SERVED)
                meshes[mode]->read_by_caller(mode == POLLING);
        }
        return true;
    } catch (const std::exception &e) {
        std::fprintf(stderr, "coll_perf: rank %d cannot start gloo: %s\n", rank, e.what());
        return false;
    }
}

void finish(int status)
{
    if (status == EXIT_RUN) { /* other ranks may be gone */
        std::fflush(nullptr);
        std::_Exit(status);
    }
    barrier();
    chosen = nullptr;
    for (auto &mesh : meshes)
        mesh = nullptr;
}

} // namespace

extern "C" const struct peer *peer_open(int *, char ***)
{
    static struct peer peer = {};
    static char version[32];
    std::snprintf(version, sizeof version, "Gloo %d.%d.%d", GLOO_VERSION_MAJOR, GLOO_VERSION_MINOR,
                  GLOO_VERSION_PATCH);
    peer.name = "gloo";
    peer.version = version;
    peer.start = start;
    peer.supports = supports;
    peer.comparable = comparable;
    peer.run = run;
    peer.barrier = barrier;
    peer.alloc = allocate;
    peer.free = std::free;
    peer.finish = finish;
    return &peer;
}

extern "C" int peer_exec(const struct options *, int, char **)
{
    return EXIT_RUN; /* never called: this program has its peer */
}
