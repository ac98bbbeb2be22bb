#include "tfps_ops/core/growing/growing_rows.h"

#include <cmath>
#include <utility>

#include "tfps_ops/core/growing/admission_filter.h"
#include "tfps_ops/core/growing/growing_table.h"

namespace tfps {
namespace {

// Options come from attributes of a graph, which somebody may have edited: all of them are checked here as well as in Python.
Status CheckAdmission(const Admission& admission) {
  switch (admission.kind) {
    case Admission::Kind::kAlways:
      return Status();
    case Admission::Kind::kCount:
      if (admission.n >= 1) return Status();
      return InvalidArgument("`admission.n` must be at least 1. Received: ", admission.n, ".");
    case Admission::Kind::kFilter:
      // A larger n would never be reached: a count stays at 15.
      if (admission.n < 1 || admission.n > AdmissionFilter::kMaxCount) {
        return InvalidArgument("`admission.n` must be from 1 to ", AdmissionFilter::kMaxCount, " with a filter. Received: ",
                               admission.n, ".");
      }
      if (admission.filter_keys >= 1) return Status();
      return InvalidArgument("`admission.filter_keys` must be at least 1. Received: ", admission.filter_keys, ".");
    case Admission::Kind::kProbability:
      // Written so that a NaN fails.
      if (admission.p > 0 && admission.p <= 1) return Status();
      return InvalidArgument("`admission.p` must be above 0 and at most 1. Received: ", admission.p, ".");
  }
  return InvalidArgument("`admission.kind` must be one of Admission::Kind. Received: ", static_cast<int>(admission.kind), ".");
}

Status CheckEvictionKind(const Eviction& rule) {
  const bool has_budget = rule.max_rows > 0 || rule.max_bytes > 0;
  switch (rule.kind) {
    case Eviction::Kind::kNone:
      return Status();
    case Eviction::Kind::kUnseen:
      if (rule.steps > 0 || rule.seconds > 0) return Status();
      return InvalidArgument("`eviction.steps` or `eviction.seconds` must be above 0. Received: 0 and 0.");
    case Eviction::Kind::kLeastRecent:
    case Eviction::Kind::kLeastFrequent:
      // These rules act at a budget only; without one they would never evict.
      if (has_budget) return Status();
      return InvalidArgument("`eviction.max_rows` or `eviction.max_bytes` must be above 0. Received: 0 and 0.");
    case Eviction::Kind::kSmallNorm:
    case Eviction::Kind::kScore:
      // kScore divides by it, and kSmallNorm takes it as the age below which a row stays.
      if (rule.steps < 1) return InvalidArgument("`eviction.steps` must be at least 1. Received: ", rule.steps, ".");
      // A decay of 0 would divide by 0 when scores are restored, one above 1 would let scores rise without end.
      if (rule.kind == Eviction::Kind::kSmallNorm || (rule.decay > 0 && rule.decay <= 1)) return Status();
      return InvalidArgument("`eviction.decay` must be above 0 and at most 1. Received: ", rule.decay, ".");
  }
  return InvalidArgument("`eviction.kind` must be one of Eviction::Kind. Received: ", static_cast<int>(rule.kind), ".");
}

Status CheckEviction(const Eviction& rule) {
  // A NaN would compare as false below, and pass.
  // `decay` is checked with the kind.
  const bool numbers = std::isfinite(rule.threshold) && std::isfinite(rule.gain) && std::isfinite(rule.seconds);
  if (!numbers) {
    return InvalidArgument("`eviction.threshold`, `gain` and `seconds` must be finite. Received: ", rule.threshold, ", ",
                           rule.gain, " and ", rule.seconds, ".");
  }
  if (rule.steps < 0 || rule.seconds < 0 || rule.max_rows < 0 || rule.max_bytes < 0) {
    return InvalidArgument("`eviction.steps`, `seconds`, `max_rows` and `max_bytes` must be at least 0. Received: ", rule.steps,
                           ", ", rule.seconds, ", ", rule.max_rows, " and ", rule.max_bytes, ".");
  }
  return CheckEvictionKind(rule);
}

}  // namespace

Result<std::shared_ptr<GrowingRows>> MakeGrowingRows(const GrowingOptions& options) {
  if (options.dim < 1) return InvalidArgument("`dim` must be at least 1. Received: ", options.dim, ".");
  TFPS_RETURN_IF_ERROR(CheckAdmission(options.admission));
  TFPS_RETURN_IF_ERROR(CheckEviction(options.eviction));
  // Made before the last check, because the bytes of an empty table depend on its options.
  auto table = std::make_shared<GrowingTable>(options);
  // A smaller budget would be full, or nearly, before the first row, and new keys would be refused.
  const int64_t empty = table->Counts().bytes, most = options.eviction.max_bytes;
  if (most > 0 && most < 2 * empty) {
    return InvalidArgument("`eviction.max_bytes` must be at least ", 2 * empty, ", as an empty table has ", empty,
                           ". Received: ", most, ".");
  }
  return std::shared_ptr<GrowingRows>(std::move(table));
}

}  // namespace tfps
