// Kernel of TfpsTrainPairs: unpacks tensors and calls core/pair_trainer.h.
#include <memory>
#include <new>
#include <string>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/pair_trainer.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

class TrainPairsOp : public tf::OpKernel {
 public:
  explicit TrainPairsOp(tf::OpKernelConstruction* context) : OpKernel(context) {
    std::string rule;
    int64_t matrices = 0;
    OP_REQUIRES_OK(context, context->GetAttr("rule", &rule));
    OP_REQUIRES_OK(context, context->GetAttr("K", &matrices));
    trainer_ = MakePairTrainer(rule);
    OP_REQUIRES(context, trainer_ != nullptr,
                tf::errors::InvalidArgument("`rule` must be sgd or adagrad. Received: ", rule));
    OP_REQUIRES(context, matrices == 1 + trainer_->slots(),
                tf::errors::InvalidArgument("`rows` must be the rows and ", trainer_->slots(),
                                            " slots. Received: ", matrices, " matrices"));
  }

  void Compute(tf::OpKernelContext* context) override {
    tf::OpInputList matrices;
    TrainedRows rows;
    Pairs pairs;
    const tf::Tensor* hyper;
    OP_REQUIRES_OK(context, context->input_list("rows", &matrices));
    OP_REQUIRES_OK(context, ReadRows(matrices, &rows));
    OP_REQUIRES_OK(context, ReadPairs(context, rows.rows, &pairs));
    OP_REQUIRES_OK(context, context->input("hyperparameters", &hyper));
    OP_REQUIRES(context, hyper->NumElements() == trainer_->hyperparameters(),
                tf::errors::InvalidArgument("`hyperparameters` must be ", trainer_->hyperparameters(),
                                            " numbers. Received: shape ", hyper->shape().DebugString()));
    OP_REQUIRES_OK(context, AllocateDeltas(context, matrices, &rows));
    tf::Tensor* loss = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(matrices.size(), {}, &loss));
    try {
      loss->scalar<double>()() = trainer_->Train(hyper->flat<float>().data(), pairs, rows);
    } catch (const std::bad_alloc&) {
      context->CtxFailure(tf::errors::ResourceExhausted("no memory for a copy of `rows`, shape ",
                                                        matrices[0].shape().DebugString()));
    }
  }

 private:
  static absl::Status ReadRows(const tf::OpInputList& matrices, TrainedRows* rows) {
    for (int i = 0; i < matrices.size(); ++i) {
      if (matrices[i].dims() != 2 || matrices[i].shape() != matrices[0].shape()) {
        return tf::errors::InvalidArgument("`rows` must be matrices of one shape. Received: ",
                                           matrices[i].shape().DebugString(), " after ",
                                           matrices[0].shape().DebugString());
      }
      rows->before[i] = matrices[i].flat<float>().data();
    }
    rows->rows = matrices[0].dim_size(0);
    rows->dim = matrices[0].dim_size(1);
    return absl::OkStatus();
  }

  static absl::Status ReadPairs(tf::OpKernelContext* context, int64_t rows, Pairs* pairs) {
    const tf::Tensor *centers, *targets;
    TF_RETURN_IF_ERROR(context->input("centers", &centers));
    TF_RETURN_IF_ERROR(context->input("targets", &targets));
    if (centers->dims() != 1 || targets->dims() != 2 || targets->dim_size(0) != centers->dim_size(0)) {
      return tf::errors::InvalidArgument("`centers` must be a vector and `targets` a matrix with a row for each. Received: shapes ",
                                         centers->shape().DebugString(), " and ", targets->shape().DebugString());
    }
    pairs->centers = centers->flat<int32_t>().data();
    pairs->targets = targets->flat<int32_t>().data();
    pairs->count = centers->dim_size(0);
    pairs->width = targets->dim_size(1);
    const int64_t bad = FirstBadPair(*pairs, rows);
    if (bad < 0) return absl::OkStatus();
    return tf::errors::InvalidArgument("`centers` and `targets` must be at least 0 and below the rows, ", rows,
                                       ". Received: pair ", bad, " with center ", pairs->centers[bad]);
  }

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

REGISTER_KERNEL_BUILDER(Name("TfpsTrainPairs").Device(tf::DEVICE_CPU), TrainPairsOp);

}  // namespace
}  // namespace tfps
