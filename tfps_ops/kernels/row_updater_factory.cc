#include "tfps_ops/kernels/row_updater_factory.h"

#include <string>

namespace tfps {
namespace {

namespace tf = ::tensorflow;
using Construction = tf::OpKernelConstruction;

absl::Status Read(Construction* context, SgdRule*) { return absl::OkStatus(); }

absl::Status Read(Construction* context, MomentumRule* rule) {
  TF_RETURN_IF_ERROR(context->GetAttr("momentum", &rule->momentum));
  return context->GetAttr("nesterov", &rule->nesterov);
}

absl::Status Read(Construction* context, AdagradRule* rule) { return context->GetAttr("epsilon", &rule->epsilon); }

absl::Status Read(Construction* context, AdamRule* rule) {
  TF_RETURN_IF_ERROR(context->GetAttr("one_minus_beta_1", &rule->one_minus_beta_1));
  TF_RETURN_IF_ERROR(context->GetAttr("one_minus_beta_2", &rule->one_minus_beta_2));
  return context->GetAttr("epsilon", &rule->epsilon);
}

template <bool momentum, bool centered>
absl::Status Read(Construction* context, RmspropRule<momentum, centered>* rule) {
  TF_RETURN_IF_ERROR(context->GetAttr("one_minus_rho", &rule->one_minus_rho));
  TF_RETURN_IF_ERROR(context->GetAttr("momentum", &rule->momentum));
  return context->GetAttr("epsilon", &rule->epsilon);
}

absl::Status Read(Construction* context, FtrlRule* rule) {
  TF_RETURN_IF_ERROR(context->GetAttr("learning_rate_power", &rule->learning_rate_power));
  TF_RETURN_IF_ERROR(context->GetAttr("l1", &rule->l1));
  TF_RETURN_IF_ERROR(context->GetAttr("l2", &rule->l2));
  TF_RETURN_IF_ERROR(context->GetAttr("l2_shrinkage", &rule->l2_shrinkage));
  return context->GetAttr("beta", &rule->beta);
}

template <class Rule>
absl::Status Make(Construction* context, std::unique_ptr<RowUpdater>* updater) {
  Rule rule;
  TF_RETURN_IF_ERROR(context->GetAttr("weight_decay", &rule.weight_decay));
  TF_RETURN_IF_ERROR(Read(context, &rule));
  *updater = MakeRowUpdater(rule);
  return absl::OkStatus();
}

absl::Status MakeRmsprop(Construction* context, std::unique_ptr<RowUpdater>* updater) {
  float momentum = 0;
  bool centered = false;
  TF_RETURN_IF_ERROR(context->GetAttr("momentum", &momentum));
  TF_RETURN_IF_ERROR(context->GetAttr("centered", &centered));
  if (momentum > 0 && centered) return Make<RmspropRule<true, true>>(context, updater);
  if (momentum > 0) return Make<RmspropRule<true, false>>(context, updater);
  if (centered) return Make<RmspropRule<false, true>>(context, updater);
  return Make<RmspropRule<false, false>>(context, updater);
}

}  // namespace

absl::Status RowUpdaterOf(Construction* context, std::unique_ptr<RowUpdater>* updater) {
  const std::string& op = context->def().op();
  if (op == "TfpsApplyRowsSgd") return Make<SgdRule>(context, updater);
  if (op == "TfpsApplyRowsMomentum") return Make<MomentumRule>(context, updater);
  if (op == "TfpsApplyRowsAdagrad") return Make<AdagradRule>(context, updater);
  if (op == "TfpsApplyRowsAdam") return Make<AdamRule>(context, updater);
  if (op == "TfpsApplyRowsRmsprop") return MakeRmsprop(context, updater);
  if (op == "TfpsApplyRowsFtrl") return Make<FtrlRule>(context, updater);
  return tf::errors::Unimplemented("no row optimizer for op ", op);
}

}  // namespace tfps
