// Kernel of TfpsRowRules: the list of core/row_rules.h as tensors.
//
// Python asks for this once, in a test: it holds that the rules have the same names, slots and numbers on both sides.
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tfps_ops/core/row_rules.h"

namespace tfps {
namespace {

namespace tf = ::tensorflow;

class RowRulesOp : public tf::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tf::OpKernelContext* context) override {
    const std::vector<RowRule> rules = RowRules();
    const tf::TensorShape shape({static_cast<int64_t>(rules.size())});
    // One output for each of these fields, in the order of the op's outputs.
    const char* RowRule::*const fields[] = {&RowRule::name, &RowRule::hyperparameters, &RowRule::slots,
                                            &RowRule::row_slots};
    for (int output = 0; output < 4; ++output) {
      tf::Tensor* texts = nullptr;
      OP_REQUIRES_OK(context, context->allocate_output(output, shape, &texts));
      for (size_t i = 0; i < rules.size(); ++i) texts->flat<tf::tstring>()(i) = rules[i].*fields[output];
    }
  }
};

REGISTER_KERNEL_BUILDER(Name("TfpsRowRules").Device(tf::DEVICE_CPU), RowRulesOp);

}  // namespace
}  // namespace tfps
