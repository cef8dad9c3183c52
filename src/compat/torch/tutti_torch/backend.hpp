/* backend.hpp: torch.distributed over Tutti, for tensors in host memory: calls are translated here;
 * tensors are in tensor.hpp, and who works is in lane.hpp. */
#ifndef TUTTI_TORCH_BACKEND_HPP
#define TUTTI_TORCH_BACKEND_HPP

#include <atomic>

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "lane.hpp"
#include "tensor.hpp"

namespace tutti_torch
{

using Answer = c10::intrusive_ptr<c10d::Work>;

/* One collective: the call, and what is left to do when it has succeeded. */
struct Part {
    std::function<tutti_status(tutti_comm *)> call;
    Finish finish;
};

class Backend : public c10d::Backend
{
  public:
    Backend(tutti_comm *collectives, tutti_comm *transfers, int rank, int size)
        : c10d::Backend(rank, size), collectives(std::make_shared<Collectives>(collectives)),
          transfers(std::make_shared<Transfers>(transfers))
    {
    }
    ~Backend() override
    {
        Backend::shutdown();
    }

    const std::string getBackendName() const override
    {
        return "tutti";
    }
    void abort() override;
    void shutdown() override;
    c10d::ErrorType getError() override;
    /* Equal on all ranks that have made the same calls; for what looks for ranks that have not. */
    uint64_t getSequenceNumberForGroup() override
    {
        return sequence;
    }
    void setSequenceNumberForGroup() override
    {
    }

    Answer broadcast(Tensors &tensors, const c10d::BroadcastOptions &options) override;
    Answer allreduce(Tensors &tensors, const c10d::AllreduceOptions &options) override;
    Answer allreduce_coalesced(Tensors &tensors,
                               const c10d::AllreduceCoalescedOptions &options) override;
    Answer reduce(Tensors &tensors, const c10d::ReduceOptions &options) override;
    Answer allgather(Lists &outputs, Tensors &inputs,
                     const c10d::AllgatherOptions &options) override;
    Answer _allgather_base(at::Tensor &output, at::Tensor &input,
                           const c10d::AllgatherOptions &options) override;
    Answer allgather_coalesced(Lists &outputs, Tensors &inputs,
                               const c10d::AllgatherOptions &options) override;
    Answer allgather_into_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                           const c10d::AllgatherOptions &options) override;
    Answer gather(Lists &outputs, Tensors &inputs, const c10d::GatherOptions &options) override;
    Answer scatter(Tensors &outputs, Lists &inputs, const c10d::ScatterOptions &options) override;
    Answer reduce_scatter(Tensors &outputs, Lists &inputs,
                          const c10d::ReduceScatterOptions &options) override;
    Answer _reduce_scatter_base(at::Tensor &output, at::Tensor &input,
                                const c10d::ReduceScatterOptions &options) override;
    Answer reduce_scatter_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                           const c10d::ReduceScatterOptions &options) override;
    Answer alltoall_base(at::Tensor &output, at::Tensor &input, std::vector<int64_t> &output_splits,
                         std::vector<int64_t> &input_splits,
                         const c10d::AllToAllOptions &options) override;
    Answer alltoall(Tensors &outputs, Tensors &inputs,
                    const c10d::AllToAllOptions &options) override;
    Answer send(Tensors &tensors, int peer, int tag) override;
    Answer recv(Tensors &tensors, int peer, int tag) override;
    Answer barrier(const c10d::BarrierOptions &options) override;

  private:
    Answer collective(c10d::OpType type, bool waited, Tensors results, Part part);
    Part allreduce_part(const at::Tensor &tensor, const c10d::ReduceOp &reduction);
    Part allgather_part(const at::Tensor &output, const at::Tensor &input);
    Part allgather_list_part(const Tensors &list, const at::Tensor &input);
    Part reduce_scatter_part(const at::Tensor &output, const at::Tensor &input,
                             const c10d::ReduceOp &reduction);
    Answer transfer(c10d::OpType type, Tensors &tensors, int peer, int tag);

    const std::shared_ptr<Lane> collectives, transfers;
    std::atomic<uint64_t> sequence{0};
};

} // namespace tutti_torch

#endif
