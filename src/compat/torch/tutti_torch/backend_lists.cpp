/* backend_lists.cpp: collectives of lists of tensors, one for each rank, and several calls as one;
 * see backend.hpp. */
#include "backend.hpp"

namespace tutti_torch
{

/* ---- lists of tensors, one for each rank -------------------------------------------------------
 */

static Tensors &only_list(Lists &lists)
{
    TORCH_CHECK(lists.size() == 1, "tutti: one list of tensors was expected, not ", lists.size());
    return lists[0];
}

Part Backend::allgather_list_part(const Tensors &list, const at::Tensor &input)
{
    check(input);
    at::Tensor in = plain(input);
    check_list(list, size_, input, "outputs");
    check_count(list[(size_t)rank_], input.numel(), "this rank's output of an allgather");
    at::Tensor all = room(list);
    Counts counts = counts_of(list);
    return {[in, all, counts](tutti_comm *comm) {
                return alike(counts)
                           ? tutti_allgather(in.data_ptr(), all.data_ptr(), counts[0],
                                             elements(in).type, comm)
                           : tutti_allgatherv(in.data_ptr(), all.data_ptr(), counts.data(), nullptr,
                                              elements(in).type, comm);
            },
            parting(all, list)};
}

Answer Backend::allgather(Lists &outputs, Tensors &inputs, const c10d::AllgatherOptions &options)
{
    Tensors &list = only_list(outputs);
    return collective(c10d::OpType::ALLGATHER, !options.asyncOp, list,
                      allgather_list_part(list, only(inputs)));
}

Answer Backend::gather(Lists &outputs, Tensors &inputs, const c10d::GatherOptions &options)
{
    at::Tensor input = only(inputs), in = plain(input), all;
    int root = (int)options.rootRank;
    Tensors list;
    if (root == rank_) {
        list = only_list(outputs);
        check_list(list, size_, input, "outputs");
        for (const at::Tensor &tensor : list)
            check_count(tensor, input.numel(), "an output of a gather");
        all = room(list);
    }
    return collective(c10d::OpType::GATHER, !options.asyncOp, list,
                      {[in, all, root](tutti_comm *comm) {
                           return tutti_gather(in.data_ptr(),
                                               all.defined() ? all.data_ptr() : nullptr, count(in),
                                               elements(in).type, root, comm);
                       },
                       root == rank_ ? parting(all, list) : nullptr});
}

Answer Backend::scatter(Tensors &outputs, Lists &inputs, const c10d::ScatterOptions &options)
{
    at::Tensor output = only(outputs), place = plain(output), all;
    int root = (int)options.rootRank;
    if (root == rank_) {
        Tensors &list = only_list(inputs);
        check_list(list, size_, output, "inputs");
        for (const at::Tensor &tensor : list)
            check_count(tensor, output.numel(), "an input of a scatter");
        all = joined(list);
    }
    return collective(c10d::OpType::SCATTER, !options.asyncOp, outputs,
                      {[place, all, root](tutti_comm *comm) {
                           return tutti_scatter(all.defined() ? all.data_ptr() : nullptr,
                                                place.data_ptr(), count(place),
                                                elements(place).type, root, comm);
                       },
                       back(place, output)});
}

Answer Backend::reduce_scatter(Tensors &outputs, Lists &inputs,
                               const c10d::ReduceScatterOptions &options)
{
    at::Tensor output = only(outputs), place = plain(output);
    Tensors &list = only_list(inputs);
    check_list(list, size_, output, "inputs");
    check_count(list[(size_t)rank_], output.numel(), "this rank's input of a reduce_scatter");
    at::Tensor all = joined(list);
    Counts counts = counts_of(list);
    tutti_op op = operation(options.reduceOp, output);
    return collective(
        c10d::OpType::REDUCE_SCATTER, !options.asyncOp, outputs,
        {[place, all, counts, op](tutti_comm *comm) {
             return alike(counts)
                        ? tutti_reduce_scatter(all.data_ptr(), place.data_ptr(), counts[0],
                                               elements(place).type, op, comm)
                        : tutti_reduce_scatterv(all.data_ptr(), place.data_ptr(), counts.data(),
                                                elements(place).type, op, comm);
         },
         back(place, output)});
}

Answer Backend::alltoall(Tensors &outputs, Tensors &inputs, const c10d::AllToAllOptions &options)
{
    TORCH_CHECK(!inputs.empty(), "tutti: an all_to_all without tensors");
    check(inputs[0]);
    check_list(inputs, size_, inputs[0], "inputs");
    check_list(outputs, size_, inputs[0], "outputs");
    at::Tensor in = joined(inputs), out = room(outputs);
    Counts to = counts_of(inputs), from = counts_of(outputs);
    return collective(c10d::OpType::ALLTOALL, !options.asyncOp, outputs,
                      {[in, out, to, from](tutti_comm *comm) {
                           return tutti_alltoallv(in.data_ptr(), to.data(), nullptr, out.data_ptr(),
                                                  from.data(), nullptr, elements(in).type, comm);
                       },
                       parting(out, outputs)});
}

/* ---- several calls as one ----------------------------------------------------------------------
 */

static Part together(std::vector<Part> parts)
{
    auto all = std::make_shared<std::vector<Part>>(std::move(parts));
    return {[all](tutti_comm *comm) {
                tutti_status status = tutti_group_start();
                for (auto part = all->begin(); status == TUTTI_OK && part != all->end(); part++)
                    status = part->call(comm);
                if (status == TUTTI_OK)
                    return tutti_group_end();
                (void)tutti_group_cancel(); /* and the error is still the last */
                return status;
            },
            [all] {
                for (const Part &part : *all) {
                    if (part.finish)
                        part.finish();
                }
            }};
}

Answer Backend::allreduce_coalesced(Tensors &tensors,
                                    const c10d::AllreduceCoalescedOptions &options)
{
    std::vector<Part> parts;
    for (const at::Tensor &tensor : tensors)
        parts.push_back(allreduce_part(tensor, options.reduceOp));
    return collective(c10d::OpType::ALLREDUCE_COALESCED, !options.asyncOp, tensors,
                      together(std::move(parts)));
}

template <class Outputs> static void check_pairs(const Outputs &outputs, const Tensors &inputs)
{
    TORCH_CHECK(outputs.size() == inputs.size(), "tutti: ", inputs.size(), " inputs and ",
                outputs.size(), " outputs in one call: one output for each was expected");
}

Answer Backend::allgather_coalesced(Lists &outputs, Tensors &inputs,
                                    const c10d::AllgatherOptions &options)
{
    check_pairs(outputs, inputs);
    std::vector<Part> parts;
    Tensors all;
    for (size_t i = 0; i < inputs.size(); i++) {
        parts.push_back(allgather_list_part(outputs[i], inputs[i]));
        all.insert(all.end(), outputs[i].begin(), outputs[i].end());
    }
    return collective(c10d::OpType::ALLGATHER_COALESCED, !options.asyncOp, all,
                      together(std::move(parts)));
}

/* One part for each output and its input. */
template <class Make>
static Part pairs_together(const Tensors &outputs, const Tensors &inputs, const Make &make)
{
    check_pairs(outputs, inputs);
    std::vector<Part> parts;
    for (size_t i = 0; i < inputs.size(); i++)
        parts.push_back(make(outputs[i], inputs[i]));
    return together(std::move(parts));
}

Answer Backend::allgather_into_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                                const c10d::AllgatherOptions &options)
{
    return collective(c10d::OpType::ALLGATHER_COALESCED, !options.asyncOp, outputs,
                      pairs_together(outputs, inputs, [this](auto &output, auto &input) {
                          return allgather_part(output, input);
                      }));
}

Answer Backend::reduce_scatter_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                                const c10d::ReduceScatterOptions &options)
{
    return collective(c10d::OpType::COALESCED, !options.asyncOp, outputs,
                      pairs_together(outputs, inputs, [&](auto &output, auto &input) {
                          return reduce_scatter_part(output, input, options.reduceOp);
                      }));
}

} // namespace tutti_torch
