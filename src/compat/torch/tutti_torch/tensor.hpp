/* tensor.hpp: what a tensor is to Tutti: elements of a type, side by side in host memory.
 * The idea: a tensor whose elements lie as they are numbered is used where it is; another is
 * copied, and a list of tensors is laid out side by side. What is wrong with one is an exception
 * whose sentence says what was expected. */
#ifndef TUTTI_TORCH_TENSOR_HPP
#define TUTTI_TORCH_TENSOR_HPP

#include <functional>
#include <vector>

#include <torch/csrc/distributed/c10d/Types.hpp>
#include <tutti/tutti.h>

namespace tutti_torch
{

using Tensors = std::vector<at::Tensor>;
using Lists = std::vector<Tensors>;
using Counts = std::vector<size_t>;
using Finish = std::function<void()>; /* what is left to do after a call; may be none */

struct Elements {
    tutti_dtype type;
    size_t each; /* of them make one of the tensor's */
    bool number; /* else bytes, to be moved only */
};

Elements elements(const at::Tensor &tensor);
size_t count(const at::Tensor &tensor); /* of elements as Tutti has them */
tutti_op operation(const c10d::ReduceOp &op, const at::Tensor &tensor);

/* Each throws, or does nothing. */
void check(const at::Tensor &tensor); /* dense, in host memory */
void check_like(const at::Tensor &a, const at::Tensor &b);
void check_count(const at::Tensor &tensor, int64_t expected, const char *what);
void check_list(const Tensors &list, int size, const at::Tensor &like, const char *what);
at::Tensor &only(Tensors &tensors); /* the one there must be */

/* The tensor, or a copy: where its elements do not lie as they are numbered, or are conjugated or
 * negated, which PyTorch leaves to who reads the memory. */
at::Tensor plain(const at::Tensor &tensor);
/* For what was received in `place` instead of `tensor`. */
Finish back(at::Tensor place, at::Tensor tensor);

/* A list side by side: room for it, a copy of it, and the way back. */
at::Tensor room(const Tensors &list);
at::Tensor joined(const Tensors &list);
Finish parting(at::Tensor all, Tensors list);
Counts counts_of(const Tensors &list);
bool alike(const Counts &counts);

} // namespace tutti_torch

#endif
