#include "tfps_ops/core/status.h"

#include <memory>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

TFPS_TEST(AStatusIsOkUntilItIsAnError) {
  const Status ok;
  TFPS_CHECK(ok.ok() && ok.code() == StatusCode::kOk && ok.message().empty());
  const Status error = InvalidArgument("`row` must be below ", 3, ". Received: ", int64_t{7}, ".");
  TFPS_CHECK(!error.ok() && error.code() == StatusCode::kInvalidArgument);
  TFPS_CHECK(error.message() == "`row` must be below 3. Received: 7.");
  TFPS_CHECK(FailedPrecondition("x").code() == StatusCode::kFailedPrecondition);
  TFPS_CHECK(ResourceExhausted("x").code() == StatusCode::kResourceExhausted);
}

TFPS_TEST(APrefixKeepsTheCodeAndLeavesOkAlone) {
  const Status error = FailedPrecondition("not initialized").Prefixed("table 3: ");
  TFPS_CHECK(error.code() == StatusCode::kFailedPrecondition && error.message() == "table 3: not initialized");
  TFPS_CHECK(Status().Prefixed("table 3: ").ok() && Status().Prefixed("table 3: ").message().empty());
}

TFPS_TEST(MessagesPrintEveryIntegerInFull) {
  TFPS_CHECK(Concatenated(INT64_MIN, " to ", INT64_MAX) == "-9223372036854775808 to 9223372036854775807");
  TFPS_CHECK(Concatenated(std::string("a"), 'b', "c", 0.5) == "abc0.5");
}

Result<std::unique_ptr<int>> Half(int number) {
  if (number % 2 != 0) return InvalidArgument("`number` must be even. Received: ", number, ".");
  return std::make_unique<int>(number / 2);
}

Status CheckAll(std::vector<int> numbers) {
  for (int number : numbers) TFPS_RETURN_IF_ERROR(Half(number).status());
  return Status();
}

TFPS_TEST(AResultIsAValueOrTheReasonForNone) {
  auto half = Half(8);
  TFPS_CHECK(half.ok() && half.status().ok() && *half.value() == 4);
  const std::unique_ptr<int> moved = std::move(half.value());
  TFPS_CHECK(*moved == 4);
  TFPS_CHECK(!Half(7).ok() && Half(7).status().message() == "`number` must be even. Received: 7.");
}

TFPS_TEST(TheFirstErrorIsReturned) {
  TFPS_CHECK(CheckAll({}).ok() && CheckAll({2, 4}).ok());
  TFPS_CHECK(CheckAll({2, 5, 7}).message() == "`number` must be even. Received: 5.");
}

}  // namespace
}  // namespace tfps
