// From an op's name and attributes to the optimizer it stands for.
#ifndef TFPS_OPS_KERNELS_ROW_UPDATER_FACTORY_H_
#define TFPS_OPS_KERNELS_ROW_UPDATER_FACTORY_H_

#include <memory>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/row_updater.h"

namespace tfps {

// The updater of the TfpsApplyRows op being built; Unimplemented if its name is none of theirs.
absl::Status RowUpdaterOf(::tensorflow::OpKernelConstruction* context, std::unique_ptr<RowUpdater>* updater);

}  // namespace tfps

#endif  // TFPS_OPS_KERNELS_ROW_UPDATER_FACTORY_H_
