/* backend.cpp: collectives of one tensor, transfers, and how a backend is made; see backend.hpp. */
#include "backend.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>

#include <pybind11/chrono.h>
#include <torch/extension.h>

#include <torch/csrc/distributed/c10d/Store.hpp>

namespace tutti_torch
{

Answer Backend::collective(c10d::OpType type, bool waited, Tensors results, Part part)
{
    sequence++;
    Pointer started = c10::make_intrusive<Operation>(
        collectives, rank_, type, std::move(results),
        [call = std::move(part.call), comm = collectives->comm](tutti_request **) {
            return call(comm);
        },
        std::move(part.finish));
    collectives->submit(started, waited);
    return started;
}

void Backend::abort()
{
    transfers->abort();
    collectives->abort();
}

/* What ends meanwhile may need the interpreter. */
void Backend::shutdown()
{
    std::optional<py::gil_scoped_release> released;
    if (Py_IsInitialized() && PyGILState_Check())
        released.emplace();
    transfers->close();
    collectives->close();
}

c10d::ErrorType Backend::getError()
{
    tutti_status status = collectives->status();
    switch (status != TUTTI_OK ? status : transfers->status()) {
    case TUTTI_OK:
        return c10d::ErrorType::SUCCESS;
    case TUTTI_ERR_TIMEOUT:
        return c10d::ErrorType::TIMEOUT;
    case TUTTI_ERR_PEER:
        return c10d::ErrorType::REMOTE_ERROR;
    default:
        return c10d::ErrorType::COMM_ERROR;
    }
}

/* ---- one tensor --------------------------------------------------------------------------------
 */

Answer Backend::broadcast(Tensors &tensors, const c10d::BroadcastOptions &options)
{
    at::Tensor tensor = only(tensors), place = plain(tensor);
    int root = (int)options.rootRank;
    return collective(c10d::OpType::BROADCAST, !options.asyncOp, tensors,
                      {[place, root](tutti_comm *comm) {
                           return tutti_broadcast(place.data_ptr(), place.data_ptr(), count(place),
                                                  elements(place).type, root, comm);
                       },
                       back(place, tensor)});
}

Part Backend::allreduce_part(const at::Tensor &tensor, const c10d::ReduceOp &reduction)
{
    check(tensor);
    at::Tensor place = plain(tensor);
    tutti_op op = operation(reduction, tensor);
    return {[place, op](tutti_comm *comm) {
                return tutti_allreduce(place.data_ptr(), place.data_ptr(), count(place),
                                       elements(place).type, op, comm);
            },
            back(place, tensor)};
}

Answer Backend::allreduce(Tensors &tensors, const c10d::AllreduceOptions &options)
{
    return collective(c10d::OpType::ALLREDUCE, !options.asyncOp, tensors,
                      allreduce_part(only(tensors), options.reduceOp));
}

Answer Backend::reduce(Tensors &tensors, const c10d::ReduceOptions &options)
{
    at::Tensor tensor = only(tensors), place = plain(tensor);
    tutti_op op = operation(options.reduceOp, tensor);
    int root = (int)options.rootRank;
    void *out = root == rank_ ? place.data_ptr() : nullptr;
    return collective(c10d::OpType::REDUCE, !options.asyncOp, tensors,
                      {[place, out, op, root](tutti_comm *comm) {
                           return tutti_reduce(place.data_ptr(), out, count(place),
                                               elements(place).type, op, root, comm);
                       },
                       out ? back(place, tensor) : nullptr});
}

Part Backend::allgather_part(const at::Tensor &output, const at::Tensor &input)
{
    check(input);
    check_like(input, output);
    check_count(output, input.numel() * size_, "the output of an allgather");
    at::Tensor in = plain(input), place = plain(output);
    return {[in, place](tutti_comm *comm) {
                return tutti_allgather(in.data_ptr(), place.data_ptr(), count(in),
                                       elements(in).type, comm);
            },
            back(place, output)};
}

Answer Backend::_allgather_base(at::Tensor &output, at::Tensor &input,
                                const c10d::AllgatherOptions &options)
{
    return collective(c10d::OpType::_ALLGATHER_BASE, !options.asyncOp, {output},
                      allgather_part(output, input));
}

Part Backend::reduce_scatter_part(const at::Tensor &output, const at::Tensor &input,
                                  const c10d::ReduceOp &reduction)
{
    check(output);
    check_like(output, input);
    check_count(input, output.numel() * size_, "the input of a reduce_scatter");
    at::Tensor in = plain(input), place = plain(output);
    tutti_op op = operation(reduction, input);
    return {[in, place, op](tutti_comm *comm) {
                return tutti_reduce_scatter(in.data_ptr(), place.data_ptr(), count(place),
                                            elements(in).type, op, comm);
            },
            back(place, output)};
}

Answer Backend::_reduce_scatter_base(at::Tensor &output, at::Tensor &input,
                                     const c10d::ReduceScatterOptions &options)
{
    return collective(c10d::OpType::_REDUCE_SCATTER_BASE, !options.asyncOp, {output},
                      reduce_scatter_part(output, input, options.reduceOp));
}

/* Elements of each rank's part along the first dimension; no splits: equal parts. */
static Counts shares(const at::Tensor &tensor, const std::vector<int64_t> &splits, int size,
                     const char *what)
{
    int64_t rows = tensor.dim() > 0 ? tensor.size(0) : 1;
    size_t row = rows > 0 ? count(tensor) / (size_t)rows : 0;
    if (splits.empty()) {
        TORCH_CHECK(rows % size == 0, "tutti: the ", what, " of an all_to_all has ", rows,
                    " rows, which ", size, " ranks cannot share equally: give split sizes");
        return Counts((size_t)size, row * (size_t)(rows / size));
    }
    TORCH_CHECK((int)splits.size() == size &&
                    std::accumulate(splits.begin(), splits.end(), (int64_t)0) == rows &&
                    *std::min_element(splits.begin(), splits.end()) >= 0,
                "tutti: the ", what, " split sizes of an all_to_all must be one for each of ", size,
                " ranks, none below 0, and together the ", rows, " rows of the tensor");
    Counts counts;
    for (int64_t each : splits)
        counts.push_back((size_t)each * row);
    return counts;
}

Answer Backend::alltoall_base(at::Tensor &output, at::Tensor &input,
                              std::vector<int64_t> &output_splits,
                              std::vector<int64_t> &input_splits,
                              const c10d::AllToAllOptions &options)
{
    check(input);
    check_like(input, output);
    at::Tensor in = plain(input), place = plain(output), out = output;
    Counts to = shares(in, input_splits, size_, "input");
    Counts from = shares(place, output_splits, size_, "output");
    bool equal = input_splits.empty() && output_splits.empty();
    return collective(c10d::OpType::ALLTOALL_BASE, !options.asyncOp, {output},
                      {[in, place, to, from, equal](tutti_comm *comm) {
                           return equal ? tutti_alltoall(in.data_ptr(), place.data_ptr(), to[0],
                                                         elements(in).type, comm)
                                        : tutti_alltoallv(in.data_ptr(), to.data(), nullptr,
                                                          place.data_ptr(), from.data(), nullptr,
                                                          elements(in).type, comm);
                       },
                       back(place, out)});
}

Answer Backend::barrier(const c10d::BarrierOptions &options)
{
    return collective(c10d::OpType::BARRIER, !options.asyncOp, {}, {tutti_barrier, nullptr});
}

/* ---- send and receive --------------------------------------------------------------------------
 */

Answer Backend::transfer(c10d::OpType type, Tensors &tensors, int peer, int tag)
{
    TORCH_CHECK(tag == 0, "tutti: tag ", tag,
                " of a send or receive is not supported: those of two ",
                "ranks match in the order in which they are called");
    at::Tensor tensor = only(tensors), place = plain(tensor);
    bool sends = type == c10d::OpType::SEND;
    tutti_comm *comm = transfers->comm;
    Pointer started = c10::make_intrusive<Operation>(
        transfers, rank_, type, tensors,
        [place, peer, sends, comm](tutti_request **request) {
            size_t n = count(place);
            tutti_dtype type = elements(place).type;
            return sends ? tutti_send_start(place.data_ptr(), n, type, peer, comm, request)
                         : tutti_recv_start(place.data_ptr(), n, type, peer, comm, request);
        },
        sends ? nullptr : back(place, tensor));
    transfers->submit(started, false);
    return started;
}

Answer Backend::send(Tensors &tensors, int peer, int tag)
{
    return transfer(c10d::OpType::SEND, tensors, peer, tag);
}

Answer Backend::recv(Tensors &tensors, int peer, int tag)
{
    return transfer(c10d::OpType::RECV, tensors, peer, tag);
}

/* ---- making one --------------------------------------------------------------------------------
 */

static const char ID_KEY[] = "tutti"; /* in the store, under the group's name */

static void must(tutti_status status)
{
    TORCH_CHECK_WITH(DistBackendError, status == TUTTI_OK, tutti_last_error());
}

/* PyTorch's patience, of which a day is the most, counts where the environment says nothing else.
 */
static void set_patience(std::chrono::milliseconds timeout)
{
    std::string ms = std::to_string(std::clamp<int64_t>(timeout.count(), 10, 86400000));
    for (const char *name : {"TUTTI_TIMEOUT_MS", "TUTTI_MEET_TIMEOUT_MS"})
        must(tutti_setting_default(name, ms.c_str()));
}

/* PyTorch gives a group the name of one that is gone, and who comes to it before rank 0 must not
 * find the old id. All have read that when rank 0 has its communicator, and nobody leaves the next
 * step, the second communicator, before rank 0 has come to it. A store that cannot delete keeps it.
 */
static void forget_id(c10d::Store &store)
{
    try {
        (void)store.deleteKey(ID_KEY);
    } catch (const std::exception &) {
    }
}

static c10::intrusive_ptr<c10d::Backend> create(const c10::intrusive_ptr<c10d::Store> &store,
                                                int rank, int size,
                                                const std::chrono::milliseconds &timeout)
{
    tutti_unique_id id;
    tutti_comm *collectives, *transfers;
    set_patience(timeout);
    if (rank == 0) {
        must(tutti_unique_id_create(&id));
        auto *bytes = reinterpret_cast<const uint8_t *>(&id);
        store->set(ID_KEY, std::vector<uint8_t>(bytes, bytes + sizeof id));
    } else {
        std::vector<uint8_t> bytes = store->get(ID_KEY);
        TORCH_CHECK(bytes.size() == sizeof id, "tutti: the store has ", bytes.size(),
                    " bytes for this group's id: ", sizeof id, " were expected");
        std::memcpy(&id, bytes.data(), sizeof id);
    }
    must(tutti_comm_create(size, &id, rank, &collectives));
    if (rank == 0)
        forget_id(*store);
    if (tutti_comm_dup(collectives, &transfers) != TUTTI_OK) {
        std::string sentence = tutti_last_error();
        (void)tutti_comm_destroy(collectives);
        TORCH_CHECK_WITH(DistBackendError, false, sentence);
    }
    return c10::make_intrusive<Backend>(collectives, transfers, rank, size);
}

} // namespace tutti_torch

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module)
{
    module.def("create", &tutti_torch::create, py::call_guard<py::gil_scoped_release>());
}
