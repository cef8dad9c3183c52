/* tensor.cpp: see tensor.hpp. */
#include "tensor.hpp"

#include <algorithm>

namespace tutti_torch
{

/* ---- types and operations ----------------------------------------------------------------------
 */

Elements elements(const at::Tensor &tensor)
{
    switch (tensor.scalar_type()) {
    case at::kBool:
        return {TUTTI_UINT8, 1, true};
    case at::kByte:
        return {TUTTI_UINT8, 1, true};
    case at::kChar:
        return {TUTTI_INT8, 1, true};
    case at::kShort:
        return {TUTTI_INT16, 1, true};
    case at::kInt:
        return {TUTTI_INT32, 1, true};
    case at::kLong:
        return {TUTTI_INT64, 1, true};
    case at::kUInt16:
        return {TUTTI_UINT16, 1, true};
    case at::kUInt32:
        return {TUTTI_UINT32, 1, true};
    case at::kUInt64:
        return {TUTTI_UINT64, 1, true};
    case at::kHalf:
        return {TUTTI_FLOAT16, 1, true};
    case at::kBFloat16:
        return {TUTTI_BFLOAT16, 1, true};
    case at::kFloat:
        return {TUTTI_FLOAT32, 1, true};
    case at::kDouble:
        return {TUTTI_FLOAT64, 1, true};
    case at::kFloat8_e4m3fn:
        return {TUTTI_FLOAT8_E4M3, 1, true};
    case at::kFloat8_e5m2:
        return {TUTTI_FLOAT8_E5M2, 1, true};
    case at::kComplexFloat:
        return {TUTTI_FLOAT32, 2, true};
    case at::kComplexDouble:
        return {TUTTI_FLOAT64, 2, true};
    default:
        return {TUTTI_UINT8, (size_t)tensor.element_size(), false};
    }
}

/* Truth is 0 or 1 in a byte: it is added by or, and multiplied by and. */
tutti_op operation(const c10d::ReduceOp &op, const at::Tensor &tensor)
{
    bool truth = tensor.scalar_type() == at::kBool;
    TORCH_CHECK(elements(tensor).number, "tutti: tensors of ", tensor.scalar_type(),
                " can be sent, gathered and scattered, but not reduced");
    TORCH_CHECK(
        !tensor.is_complex() || op.op_ == c10d::ReduceOp::SUM || op.op_ == c10d::ReduceOp::AVG,
        "tutti: tensors of ", tensor.scalar_type(),
        " are reduced by SUM and AVG only: the other operations have no meaning for both parts");
    switch (op.op_) {
    case c10d::ReduceOp::SUM:
        return truth ? TUTTI_MAX : TUTTI_SUM;
    case c10d::ReduceOp::PRODUCT:
        return truth ? TUTTI_MIN : TUTTI_PROD;
    case c10d::ReduceOp::MIN:
        return TUTTI_MIN;
    case c10d::ReduceOp::MAX:
        return TUTTI_MAX;
    case c10d::ReduceOp::BAND:
        return TUTTI_BAND;
    case c10d::ReduceOp::BOR:
        return TUTTI_BOR;
    case c10d::ReduceOp::BXOR:
        return TUTTI_BXOR;
    case c10d::ReduceOp::AVG:
        TORCH_CHECK(!truth, "tutti: tensors of bool have no average");
        return TUTTI_AVG;
    default:
        TORCH_CHECK(false, "tutti: this reduction is not supported: SUM, AVG, PRODUCT, MIN, MAX, ",
                    "BAND, BOR and BXOR are (a premultiplied sum: multiply, then SUM)");
    }
}

/* ---- tensors -----------------------------------------------------------------------------------
 */

void check(const at::Tensor &tensor)
{
    TORCH_CHECK(
        tensor.device().is_cpu(), "tutti: a tensor is on ", tensor.device(),
        ", and this backend takes tensors in host memory; for GPUs the backend nccl runs on "
        "Tutti with its libnccl.so.2 preloaded");
    TORCH_CHECK(tensor.layout() == at::kStrided, "tutti: a tensor is ", tensor.layout(),
                ": only dense tensors are supported");
}

at::Tensor &only(Tensors &tensors)
{
    TORCH_CHECK(tensors.size() == 1, "tutti: one tensor was expected, not ", tensors.size());
    check(tensors[0]);
    return tensors[0];
}

size_t count(const at::Tensor &tensor)
{
    return (size_t)tensor.numel() * elements(tensor).each;
}

void check_like(const at::Tensor &a, const at::Tensor &b)
{
    check(b);
    TORCH_CHECK(a.scalar_type() == b.scalar_type(), "tutti: tensors of ", a.scalar_type(), " and ",
                b.scalar_type(), " in one call: both must be of one type");
}

void check_count(const at::Tensor &tensor, int64_t expected, const char *what)
{
    TORCH_CHECK(tensor.numel() == expected, "tutti: ", what, " has ", tensor.numel(),
                " elements, and ", expected, " were expected");
}

void check_list(const Tensors &list, int size, const at::Tensor &like, const char *what)
{
    TORCH_CHECK((int)list.size() == size, "tutti: the list of ", what, " has ", list.size(),
                " tensors: one for each of the ", size, " ranks was expected");
    for (const at::Tensor &tensor : list)
        check_like(like, tensor);
}

/* Room for all tensors of a list, side by side. */
at::Tensor room(const Tensors &list)
{
    int64_t all = 0;
    for (const at::Tensor &tensor : list)
        all += tensor.numel();
    return list[0].new_empty({all});
}

at::Tensor joined(const Tensors &list)
{
    at::NoGradGuard values_only;
    at::Tensor all = room(list);
    int64_t at = 0;
    for (const at::Tensor &tensor : list) {
        all.narrow(0, at, tensor.numel()).copy_(tensor.reshape({-1}));
        at += tensor.numel();
    }
    return all;
}

Finish parting(at::Tensor all, Tensors list)
{
    return [all, list] {
        int64_t at = 0;
        for (const at::Tensor &tensor : list) {
            tensor.copy_(all.narrow(0, at, tensor.numel()).view(tensor.sizes()));
            at += tensor.numel();
        }
    };
}

/* In this order, since a copy made by contiguous() is also resolved. */
at::Tensor plain(const at::Tensor &tensor)
{
    return tensor.contiguous().resolve_conj().resolve_neg();
}

/* For what was received in `place` instead of `tensor`. */
Finish back(at::Tensor place, at::Tensor tensor)
{
    if (place.is_same(tensor))
        return nullptr;
    return [place, tensor] { tensor.copy_(place); };
}

Counts counts_of(const Tensors &list)
{
    Counts counts;
    for (const at::Tensor &tensor : list)
        counts.push_back(count(tensor));
    return counts;
}

bool alike(const Counts &counts)
{
    return std::adjacent_find(counts.begin(), counts.end(), std::not_equal_to<>()) == counts.end();
}

} // namespace tutti_torch
