// Kernels of TfpsTrainPairs and TfpsTrainGroups: they unpack tensors and call core/pair_trainer.h.
//
// Threads: a Compute uses the caller's thread alone; several may run at once. Errors: every pair is checked before the first
// is trained. Cost: see PairTrainer::Train.
#include <memory>
#include <string>
#include <utility>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/pair_trainer.h"
#include "tfps_ops/kernels/status_conversion.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

// Reads the pairs and checks that each names rows below `rows`.
absl::Status Read(tf::OpKernelContext* context, int64_t rows, Pairs* pairs) {
  const tf::Tensor *centers, *targets;
  TF_RETURN_IF_ERROR(context->input("centers", &centers));
  TF_RETURN_IF_ERROR(context->input("targets", &targets));
  // A pair has one center and `width` targets, the positive one first.
  if (centers->dims() != 1 || targets->dims() != 2 || targets->dim_size(0) != centers->dim_size(0)) {
    return ToTensorFlow(InvalidArgument(
        "`centers` must be a vector and `targets` a matrix with a row for each. Received: shapes ",
        centers->shape().DebugString(), " and ", targets->shape().DebugString(), "."));
  }
  pairs->centers = centers->flat<int32_t>().data();
  pairs->targets = targets->flat<int32_t>().data();
  pairs->count = centers->dim_size(0);
  pairs->width = targets->dim_size(1);
  return ToTensorFlow(CheckPairs(*pairs, rows));
}

// The same for groups, which have a size and a row of targets each.
absl::Status Read(tf::OpKernelContext* context, int64_t rows, Groups* groups) {
  const tf::Tensor *centers, *sizes, *targets;
  TF_RETURN_IF_ERROR(context->input("centers", &centers));
  TF_RETURN_IF_ERROR(context->input("sizes", &sizes));
  TF_RETURN_IF_ERROR(context->input("targets", &targets));
  if (centers->dims() != 1 || sizes->dims() != 1 || targets->dims() != 2 || targets->dim_size(0) != sizes->dim_size(0)) {
    return ToTensorFlow(InvalidArgument(
        "`centers` and `sizes` must be vectors and `targets` a matrix with a row for each size. Received: shapes ",
        centers->shape().DebugString(), ", ", sizes->shape().DebugString(), " and ", targets->shape().DebugString(), "."));
  }
  groups->centers = centers->flat<int32_t>().data();
  groups->sizes = sizes->flat<int32_t>().data();
  groups->targets = targets->flat<int32_t>().data();
  groups->count = sizes->dim_size(0);
  groups->width = targets->dim_size(1);
  groups->center_count = centers->dim_size(0);
  return ToTensorFlow(CheckGroups(*groups, rows));
}

// `Work` is Pairs or Groups.
template <class Work>
class TrainOp : public tf::OpKernel {
 public:
  // What is known before the first step is checked here, where a graph is built, and not a million times later.
  explicit TrainOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    std::string rule;
    int64_t matrices = 0;
    OP_REQUIRES_OK(context, context->GetAttr("rule", &rule));
    OP_REQUIRES_OK(context, context->GetAttr("K", &matrices));
    auto trainer = MakePairTrainer(rule);
    OP_REQUIRES_OK(context, ToTensorFlow(trainer));
    trainer_ = std::move(trainer.value());
    OP_REQUIRES(context, matrices == 1 + trainer_->slots(),
                ToTensorFlow(InvalidArgument("`rows` must be the rows and ", trainer_->slots(), " slots. Received: ",
                                             matrices, " matrices.")));
  }

  void Compute(tf::OpKernelContext* context) override {
    // Inputs are the rows and their slots, what is trained, and the hyperparameters.
    tf::OpInputList matrices;
    TrainedRows rows;
    Work work;
    const tf::Tensor* hyper;
    OP_REQUIRES_OK(context, context->input_list("rows", &matrices));
    OP_REQUIRES_OK(context, ReadRows(matrices, &rows));
    OP_REQUIRES_OK(context, Read(context, rows.rows, &work));
    OP_REQUIRES_OK(context, context->input("hyperparameters", &hyper));
    OP_REQUIRES(context, hyper->NumElements() == trainer_->hyperparameters(),
                ToTensorFlow(InvalidArgument("`hyperparameters` must be ", trainer_->hyperparameters(),
                                             " numbers. Received: shape ", hyper->shape().DebugString(), ".")));
    // Deltas and not rows: several workers train copies of the same rows, and what each adds is added up on the server.
    OP_REQUIRES_OK(context, AllocateDeltas(context, matrices, &rows));
    tf::Tensor* loss = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(matrices.size(), {}, &loss));
    // In this thread, one after the other: the order of the updates is part of the result.
    const auto trained = trainer_->Train(hyper->flat<float>().data(), work, rows);
    OP_REQUIRES_OK(context, ToTensorFlow(trained));
    loss->scalar<double>()() = trained.value();
  }

 private:
  // Reads the rows and slots as they are before.
  static absl::Status ReadRows(const tf::OpInputList& matrices, TrainedRows* rows) {
    for (int i = 0; i < matrices.size(); ++i) {
      if (matrices[i].dims() != 2 || matrices[i].shape() != matrices[0].shape()) {
        return ToTensorFlow(InvalidArgument("`rows` must be matrices of one shape. Received: ",
                                            matrices[i].shape().DebugString(), " after ",
                                            matrices[0].shape().DebugString(), "."));
      }
      rows->before[i] = matrices[i].flat<float>().data();
    }
    // All have the shape of the first, so it speaks for them.
    rows->rows = matrices[0].dim_size(0);
    rows->dim = matrices[0].dim_size(1);
    return absl::OkStatus();
  }

  // Makes the outputs: one for each of the rows and slots, of its shape.
  static absl::Status AllocateDeltas(tf::OpKernelContext* context, const tf::OpInputList& matrices, TrainedRows* rows) {
    for (int i = 0; i < matrices.size(); ++i) {
      tf::Tensor* delta = nullptr;
      TF_RETURN_IF_ERROR(context->allocate_output(i, matrices[i].shape(), &delta));
      rows->deltas[i] = delta->flat<float>().data();
    }
    return absl::OkStatus();
  }

  std::unique_ptr<PairTrainer> trainer_;
};

REGISTER_KERNEL_BUILDER(Name("TfpsTrainPairs").Device(tf::DEVICE_CPU), TrainOp<Pairs>);
REGISTER_KERNEL_BUILDER(Name("TfpsTrainGroups").Device(tf::DEVICE_CPU), TrainOp<Groups>);

}  // namespace
}  // namespace tfps
