// The one place that knows which kinds of stores there are.
#include "tfps_ops/stores/open_row_store.h"

#include <utility>

#include "tensorflow/core/framework/resource_handle.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/type_index.h"
#include "tfps_ops/core/status.h"
#include "tfps_ops/stores/growing_row_store.h"
#include "tfps_ops/stores/variable_row_store.h"

namespace tfps {

namespace tf = ::tensorflow;

namespace {

// Each handle is looked up on its own: a slot may be anywhere among the resources of the device.
absl::Status OpenVariables(tf::OpKernelContext* context, const std::vector<const tf::Tensor*>& handles, int64_t dim,
                           std::unique_ptr<RowStore>* store) {
  std::vector<VarPtr> vars(handles.size());
  for (size_t i = 0; i < handles.size(); ++i) TF_RETURN_IF_ERROR(FindVariable(context, *handles[i], &vars[i]));
  *store = std::make_unique<VariableRowStore>(context, std::move(vars), dim);
  return absl::OkStatus();
}

// A table that grows: each handle is one of its columns.
absl::Status OpenColumns(tf::OpKernelContext* context, const std::vector<const tf::Tensor*>& handles, int64_t dim,
                         bool training, std::unique_ptr<RowStore>* store) {
  std::vector<GrowingColumnPtr> columns(handles.size());
  for (size_t i = 0; i < handles.size(); ++i) TF_RETURN_IF_ERROR(FindColumn(context, *handles[i], &columns[i]));
  *store = std::make_unique<GrowingRowStore>(std::move(columns), dim, training);
  return absl::OkStatus();
}

}  // namespace

absl::Status FindColumn(tf::OpKernelContext* context, const tf::Tensor& handle, GrowingColumnPtr* column) {
  if (handle.NumElements() != 1) {
    return absl::InvalidArgumentError(
        Concatenated("the handle of a column must be a scalar. Received: shape ", handle.shape().DebugString(), "."));
  }
  return tf::LookupResource(context, handle.flat<tf::ResourceHandle>()(0), column);
}

absl::Status OpenRowStore(tf::OpKernelContext* context, const std::vector<const tf::Tensor*>& handles, int64_t dim,
                          std::unique_ptr<RowStore>* store, bool training) {
  if (handles[0]->NumElements() != 1) {
    return absl::InvalidArgumentError(Concatenated("the handle of a table must be a scalar. Received: shape ",
                                                   handles[0]->shape().DebugString(), "."));
  }
  // The handle carries a hash of the resource's C++ type, so nothing is looked up to know the kind of store.
  const tf::ResourceHandle& table = handles[0]->flat<tf::ResourceHandle>()(0);
  if (table.hash_code() == tf::TypeIndex::Make<tf::Var>().hash_code()) return OpenVariables(context, handles, dim, store);
  if (table.hash_code() == tf::TypeIndex::Make<GrowingColumn>().hash_code()) {
    return OpenColumns(context, handles, dim, training, store);
  }
  // A new kind of store adds its case above this line.
  return absl::InvalidArgumentError(Concatenated("a table must be a float variable or a table that grows. Received: the resource '",
                                                 table.name(), "' of type ", table.maybe_type_name(), "."));
}

}  // namespace tfps
