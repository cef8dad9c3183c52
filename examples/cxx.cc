// cxx.cc: Tutti from C++: the header as it is, a handle that destroys itself, errors as exceptions.
// Run it under any launcher, or alone.
#include <algorithm>
#include <iostream>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <tutti/tutti.h>
#include <vector>

namespace
{

void check(tutti_status status)
{
    if (status != TUTTI_OK)
        throw std::runtime_error(std::string(tutti_status_string(status)) + ": " +
                                 tutti_last_error());
}

struct destroy {
    void operator()(tutti_comm *comm) const
    {
        tutti_comm_destroy(comm);
    }
};
using communicator = std::unique_ptr<tutti_comm, destroy>;

communicator from_environment()
{
    tutti_comm *comm = nullptr;
    check(tutti_comm_create_from_env(&comm));
    return communicator(comm);
}

} // namespace

int main()
try {
    communicator comm = from_environment();
    int rank = 0, size = 0;
    check(tutti_comm_rank(comm.get(), &rank));
    check(tutti_comm_size(comm.get(), &size));

    // each rank's share of a vector, of unequal length, gathered by all
    std::vector<size_t> counts(static_cast<size_t>(size));
    std::iota(counts.begin(), counts.end(), 1);
    size_t total = std::accumulate(counts.begin(), counts.end(), size_t{0});
    std::vector<double> mine(counts[static_cast<size_t>(rank)], rank), all(total);
    check(tutti_allgatherv(mine.data(), all.data(), counts.data(), nullptr, TUTTI_FLOAT64,
                           comm.get()));

    bool sorted = std::is_sorted(all.begin(), all.end()) && all.back() == size - 1;
    if (rank == 0)
        std::cout << size << " ranks, " << total << " elements, "
                  << (sorted ? "in order" : "out of order") << '\n';
    check(tutti_comm_finalize(comm.get()));
    return sorted ? 0 : 1;
} catch (const std::exception &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
