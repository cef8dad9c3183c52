/* lane.hpp: operations that PyTorch has started, and who carries them out.
 * The idea: whoever waits for an operation works itself, so that a call which is waited for at once
 * costs no change of thread; what nobody waits for yet is worked by a thread of the lane, and by
 * another while that one is in a callback of the program that starts an operation and waits for it.
 * Collectives are carried out one after the other, in the order in which they were started, which
 * is the same on every rank; sends and receives go on side by side, as programs expect, and so have
 * a communicator of their own.
 * Invariant: one thread at a time is inside a communicator. */
#ifndef TUTTI_TORCH_LANE_HPP
#define TUTTI_TORCH_LANE_HPP

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <sys/types.h>
#include <thread>
#include <vector>

#include <torch/csrc/distributed/c10d/Work.hpp>

#include "tensor.hpp"

namespace tutti_torch
{

class Lane;

/* What a call returns to the program. It keeps the tensors alive until it has ended. */
class Operation : public c10d::Work
{
  public:
    /* action: of a collective, the whole of it; of a transfer, what starts it with `request`. */
    using Action = std::function<tutti_status(tutti_request **request)>;

    Operation(std::shared_ptr<Lane> lane, int rank, c10d::OpType type,
              std::vector<at::Tensor> results, Action action, Finish finish);

    bool wait(std::chrono::milliseconds timeout = kNoTimeout) override;
    std::vector<at::Tensor> result() override;
    c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

    /* For its lane. `end` takes the sentence of an error from this thread's last call; who waits
     * for the future is told afterwards, since such a callback may wait for other operations. */
    tutti_status act()
    {
        return action(&request);
    }
    void end(tutti_status status);
    void tell();
    tutti_request *request = nullptr;

  private:
    std::shared_ptr<Lane> lane;
    std::vector<at::Tensor> results;
    Action action;
    Finish finish_up;
    c10::intrusive_ptr<c10::ivalue::Future> future;
};

using Pointer = c10::intrusive_ptr<Operation>;

/* A communicator, which the lane owns, and what is started on it. */
class Lane : public std::enable_shared_from_this<Lane>
{
  public:
    explicit Lane(tutti_comm *comm);
    virtual ~Lane() = default;
    /* waited: the caller is about to wait for it, and no other thread need look. */
    void submit(const Pointer &operation, bool waited);
    /* False when the time is up (zero: never). */
    bool wait(Operation &operation, std::chrono::milliseconds timeout);
    /* Ends what was started, then the communicator; a second time nothing. In a child of fork the
     * lane is kept for ever: its threads are not there, and yet seem to wait for what would go. */
    void close();
    void abort();
    tutti_status status(); /* what failed the communicator; TUTTI_OK once it is closed */

    tutti_comm *const comm;

  protected:
    /* With the lock held, which they give up while they work or pause. `step` is false if there was
     * nothing that this thread could do; `round`: how often in a row that has been so. */
    virtual void add(const Pointer &operation) = 0;
    virtual bool empty() const = 0;
    virtual bool step(std::unique_lock<std::mutex> &lock) = 0;
    virtual void pause(std::unique_lock<std::mutex> &lock, int round) = 0;
    void tell(std::unique_lock<std::mutex> &lock, Pointer operation); /* that it has ended */

    std::mutex mutex;
    std::condition_variable changed;

  private:
    void run();
    void call_thread(); /* with the lock held; makes one where there is none, or none left */
    std::vector<std::thread> threads;
    size_t telling = 0; /* of them are in a future's callbacks */
    const pid_t owner;
    bool closing = false, closed = false;
};

/* One after the other. */
class Collectives : public Lane
{
  public:
    using Lane::Lane;

  private:
    void add(const Pointer &operation) override
    {
        queue.push_back(operation);
    }
    bool empty() const override
    {
        return queue.empty() && !busy;
    }
    bool step(std::unique_lock<std::mutex> &lock) override;
    void pause(std::unique_lock<std::mutex> &lock, int) override
    {
        changed.wait(lock);
    }
    std::deque<Pointer> queue;
    bool busy = false; /* a thread carries one out */
};

/* Side by side: all are started at once, and asked in turn whether they have ended. */
class Transfers : public Lane
{
  public:
    using Lane::Lane;

  private:
    void add(const Pointer &operation) override;
    bool empty() const override
    {
        return going.empty();
    }
    bool step(std::unique_lock<std::mutex> &lock) override;
    void pause(std::unique_lock<std::mutex> &lock, int round) override;
    std::vector<Pointer> going;
};

} // namespace tutti_torch

#endif
