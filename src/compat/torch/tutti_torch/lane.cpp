/* lane.cpp: see lane.hpp. */
#include "lane.hpp"

#include <algorithm>
#include <unistd.h>

namespace tutti_torch
{

using Guard = std::unique_lock<std::mutex>;
using std::chrono::microseconds;

#define ROUNDS_AT_ONCE                                                                             \
    200                  /* looks before a thread that waits for a transfer sleeps between them    \
                          */
#define NAP_US      1000 /* at most */
#define THREADS_MAX 64   /* of a lane: callbacks that wait for other operations, and one more */

static thread_local const Lane *served = nullptr; /* by this thread */
static thread_local int callbacks; /* that it is in, one within the other: they may wait, too */

/* ---- operations --------------------------------------------------------------------------------
 */

Operation::Operation(std::shared_ptr<Lane> lane, int rank, c10d::OpType type,
                     std::vector<at::Tensor> results, Action action, Finish finish)
    : c10d::Work(rank, type), lane(std::move(lane)), results(std::move(results)),
      action(std::move(action)), finish_up(std::move(finish)),
      future(
          c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get())))
{
}

void Operation::end(tutti_status status)
{
    std::exception_ptr error;
    try {
        TORCH_CHECK_WITH(DistBackendError, status == TUTTI_OK, tutti_last_error());
        at::AutoDispatchBelowADInplaceOrView values_only; /* of inference tensors, too */
        if (finish_up)
            finish_up();
    } catch (...) {
        error = std::current_exception();
    }
    action = nullptr;
    finish_up = nullptr;
    finish(error);
}

void Operation::tell()
{
    if (exception())
        future->setError(exception());
    else
        future->markCompleted(c10::IValue(results));
}

bool Operation::wait(std::chrono::milliseconds timeout)
{
    TORCH_CHECK_WITH(DistBackendError, lane->wait(*this, timeout),
                     "the operation has not ended within ", timeout.count(),
                     " ms, the time given to wait(); it goes on");
    if (exception())
        std::rethrow_exception(exception());
    return true;
}

std::vector<at::Tensor> Operation::result()
{
    return results;
}

c10::intrusive_ptr<c10::ivalue::Future> Operation::getFuture()
{
    return future;
}

/* ---- what lanes have in common -----------------------------------------------------------------
 */

Lane::Lane(tutti_comm *comm) : comm(comm), owner(getpid())
{
}

void Lane::submit(const Pointer &operation, bool waited)
{
    TORCH_CHECK(owner == getpid(), "tutti: this process group belongs to the parent process: a ",
                "child made by fork must make its own");
    Guard lock(mutex);
    TORCH_CHECK(!closing, "tutti: the process group has been destroyed");
    add(operation);
    if (!waited)
        call_thread();
}

void Lane::call_thread()
{
    /* none left: this callback may wait for what it started */
    bool blocked = threads.size() == telling && served == this;
    if ((threads.empty() || blocked) && telling < THREADS_MAX && !closing)
        threads.emplace_back(&Lane::run, this);
    changed.notify_all();
}

void Lane::tell(Guard &lock, Pointer operation)
{
    bool ours = served == this && callbacks == 0;
    telling += ours;
    callbacks++;
    changed.notify_all();
    lock.unlock();
    operation->tell();
    operation.reset();
    lock.lock();
    callbacks--;
    telling -= ours;
}

bool Lane::wait(Operation &operation, std::chrono::milliseconds timeout)
{
    auto ended = [&] { return operation.isCompleted(); };
    Guard lock(mutex);
    if (timeout.count() > 0) { /* a step may take longer */
        call_thread();
        return changed.wait_for(lock, timeout, ended);
    }
    for (int round = 0; !ended(); round++) {
        if (!step(lock) && !ended())
            pause(lock, round);
    }
    return true;
}

void Lane::run()
{
    std::shared_ptr<Lane> self = shared_from_this(); /* a callback may end the lane */
    served = this;
    Guard lock(mutex);
    for (int round = ROUNDS_AT_ONCE; !closing || !empty(); round++) {
        if (step(lock)) {
            round = ROUNDS_AT_ONCE;
        } else if (!empty()) {
            pause(lock, round);
        } else if (!closing) {
            changed.wait(lock);
            round = ROUNDS_AT_ONCE;
        }
    }
}

void Lane::close()
{
    if (owner != getpid()) {
        new std::shared_ptr<Lane>(shared_from_this());
        return;
    }
    {
        Guard lock(mutex);
        if (closing)
            return;
        closing = true;
        changed.notify_all();
        for (int round = 0; !empty(); round++) {
            if (!step(lock))
                pause(lock, round);
        }
    }
    for (std::thread &thread : threads) {
        if (thread.get_id() == std::this_thread::get_id())
            thread.detach();
        else
            thread.join();
    }
    Guard lock(mutex);
    closed = true;
    (void)tutti_comm_destroy(comm);
}

void Lane::abort()
{
    Guard lock(mutex);
    if (!closed)
        (void)tutti_comm_abort(comm);
}

tutti_status Lane::status()
{
    Guard lock(mutex);
    return closed ? TUTTI_OK : tutti_comm_status(comm);
}

/* ---- the two kinds -----------------------------------------------------------------------------
 */

bool Collectives::step(Guard &lock)
{
    if (busy || queue.empty())
        return false;
    Pointer operation = std::move(queue.front());
    queue.pop_front();
    busy = true;
    lock.unlock();
    operation->end(operation->act());
    lock.lock();
    busy = false;
    tell(lock, std::move(operation));
    return true;
}

void Transfers::add(const Pointer &operation)
{
    tutti_status status = operation->act();
    if (status == TUTTI_OK) {
        going.push_back(operation);
        return;
    }
    operation->end(status);
    operation->tell(); /* nobody yet */
}

bool Transfers::step(Guard &lock)
{
    for (auto place = going.begin(); place != going.end(); place++) {
        int done = 0;
        tutti_status status = tutti_test(&(*place)->request, &done);
        if (status == TUTTI_OK && !done)
            continue;
        Pointer operation = std::move(*place);
        going.erase(place);
        lock.unlock();
        operation->end(status);
        lock.lock();
        tell(lock, std::move(operation));
        return true;
    }
    return false;
}

void Transfers::pause(Guard &lock, int round)
{
    if (round < ROUNDS_AT_ONCE) {
        lock.unlock();
        std::this_thread::yield();
        lock.lock();
    } else {
        changed.wait_for(lock, microseconds(std::min(20 * (round - ROUNDS_AT_ONCE + 1), NAP_US)));
    }
}

} // namespace tutti_torch
