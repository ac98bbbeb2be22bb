#include "tfps_ops/core/text/fingerprint.h"

#include <string>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

TFPS_TEST(FingerprintsAreThoseOfTensorFlow) {
  // `tf.fingerprint` of the first n bytes of (37 i + 11) mod 256: lengths at and beside the borders between the formulas.
  const std::vector<std::pair<size_t, uint64_t>> expected = {
      {0, 0x9ae16a3b2f90404fu},   {1, 0x4271b80e2915c76au},   {3, 0x373a2b2a12e0c581u},   {4, 0xcc1e778137ae6d69u},
      {7, 0x960838fbc6d9c975u},   {8, 0x7d507025ed4eecfdu},   {16, 0xd836480326a974d6u},  {17, 0x5cded6cb65c9dac6u},
      {32, 0xa03300e1b2be6da7u},  {33, 0x839154ca67815696u},  {64, 0x000f03eac52d3535u},  {65, 0xfb360c5023f60db6u},
      {127, 0xd70e348fcbf64d04u}, {128, 0x33ef435f17af1739u}, {129, 0xc30a81b637d2e4ddu}, {300, 0x70118fe7a7f708b5u}};
  for (const auto& [size, fingerprint] : expected) {
    std::vector<char> bytes(size);
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 37 + 11);
    TFPS_CHECK(Fingerprint64(bytes.data(), size) == fingerprint);
  }
}

TFPS_TEST(RemaindersAreThoseOfDivision) {
  Random random(5);
  for (const uint64_t divisor : {uint64_t{1}, uint64_t{2}, uint64_t{3}, uint64_t{1000000}, uint64_t{1} << 32,
                                 (uint64_t{1} << 63) - 1, uint64_t{1} << 63, UINT64_MAX}) {
    const Remainder remainder(divisor);
    for (const uint64_t value : {uint64_t{0}, uint64_t{1}, divisor - 1, divisor, divisor + 1, UINT64_MAX, UINT64_MAX - 1}) {
      TFPS_CHECK(remainder.Of(value) == value % divisor);
    }
    for (int i = 0; i < 10000; ++i) {
      const uint64_t value = static_cast<uint64_t>(random.Integer(INT64_MIN, INT64_MAX));
      TFPS_CHECK(remainder.Of(value) == value % divisor);
    }
  }
}

}  // namespace
}  // namespace tfps
