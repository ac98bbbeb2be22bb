#include "tfps_ops/core/rows/row_conversion.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "tfps_ops/core/row_kernels.h"
#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

float FloatOf(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Every target that this CPU can run.
std::vector<CpuTarget> Targets() {
  std::vector<CpuTarget> targets;
  for (CpuTarget target : {CpuTarget::kBaseline, CpuTarget::kAvx2, CpuTarget::kAvx512}) {
    if (target <= BestCpuTarget()) targets.push_back(target);
  }
  return targets;
}

TFPS_TEST(EveryBfloat16BecomesItselfAgain) {
  std::vector<uint16_t> halves;
  for (uint32_t half = 0; half < 0x10000; ++half) {
    // A NaN gets the bit that makes it quiet, so only those with it stay as they are.
    if (!std::isnan(FloatOf(static_cast<uint16_t>(half))) || (half & 0x40) != 0) halves.push_back(static_cast<uint16_t>(half));
  }
  const int64_t n = static_cast<int64_t>(halves.size());
  std::vector<float> floats(n);
  WidenRow(halves.data(), Storage::kBfloat16, n, floats.data());
  for (int64_t i = 0; i < n; ++i) TFPS_CHECK(BitsOf(floats[i]) == static_cast<uint32_t>(halves[i]) << 16);
  std::vector<uint16_t> back(n);
  StoreNearest(floats.data(), n, Storage::kBfloat16, back.data());
  TFPS_CHECK(back == halves);
  StoreAtRandom(floats.data(), n, {3, 4, 5}, Storage::kBfloat16, back.data());
  TFPS_CHECK(back == halves);
}

TFPS_TEST(TheNearestIsNearAndTiesAreEven) {
  const std::vector<float> floats = {1.0f, 1.0039062f, 1.0039063f, 1.01171875f, 1.0117f, -1.0039064f};
  std::vector<uint16_t> halves(floats.size());
  StoreNearest(floats.data(), static_cast<int64_t>(floats.size()), Storage::kBfloat16, halves.data());
  const std::vector<float> wanted = {1, 1, 1.0f, 1.015625f, 1.0078125f, -1.0078125f};
  for (size_t i = 0; i < wanted.size(); ++i) TFPS_CHECK(FloatOf(halves[i]) == wanted[i]);
}

TFPS_TEST(NanAndInfinityStay) {
  uint32_t bits[] = {0x7F800000, 0xFF800000, 0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF};
  float floats[5];
  std::memcpy(floats, bits, sizeof(bits));
  uint16_t halves[5];
  for (uint64_t update = 0; update < 1000; ++update) {
    StoreAtRandom(floats, 5, {update, 0, 0}, Storage::kBfloat16, halves);
    TFPS_CHECK(halves[0] == 0x7F80 && halves[1] == 0xFF80);
    for (int i = 2; i < 5; ++i) TFPS_CHECK(std::isnan(FloatOf(halves[i])));
  }
}

// Every length up to three vectors of the widest target: each has whole vectors and a rest.
TFPS_TEST(AllTargetsGiveTheSameBitsAndWriteNothingElse) {
  Random random(7);
  for (int64_t n = 0; n <= 50; ++n) {
    const std::vector<float> floats = random.Floats(n);
    std::vector<std::vector<uint16_t>> nearest, drawn;
    std::vector<std::vector<float>> widened;
    for (CpuTarget target : Targets()) {
      const RowKernels& kernels = RowKernelsFor(target);
      std::vector<uint16_t> a(n + 1, 0xABCD), b(n + 1, 0xABCD);
      kernels.narrow(floats.data(), n, a.data());
      kernels.narrow_at_random(floats.data(), n, 0x123456789ABCDEF0 + n, b.data());
      TFPS_CHECK(a[n] == 0xABCD && b[n] == 0xABCD);
      std::vector<float> c(n + 1, 0.5f);
      kernels.widen(b.data(), n, c.data());
      TFPS_CHECK(c[n] == 0.5f);
      for (int64_t i = 0; i < n; ++i) TFPS_CHECK(c[i] == FloatOf(b[i]));
      nearest.push_back(a), drawn.push_back(b), widened.push_back(c);
    }
    for (size_t t = 1; t < drawn.size(); ++t) {
      TFPS_CHECK(nearest[t] == nearest[0] && drawn[t] == drawn[0] && widened[t] == widened[0]);
    }
  }
}

// 1 + 3/8 of a step of bfloat16 must round up in 3 of 8 draws, for each element of a row, part, key and update alike.
TFPS_TEST(RoundingAtRandomIsRightInTheMean) {
  constexpr int64_t kWidth = 20, kDraws = 20000;
  const std::vector<float> floats(kWidth, 1.0f + 0.375f / 128);
  std::vector<uint16_t> halves(kWidth);
  // What varies: the update, the key, or the part.
  for (int kind = 0; kind < 3; ++kind) {
    std::vector<int> ups(kWidth, 0);
    for (int64_t i = 0; i < kDraws; ++i) {
      const RoundingDraw draw{kind == 0 ? static_cast<uint64_t>(i) : 11, kind == 1 ? i : 7, kind == 2 ? static_cast<int>(i) : 1};
      StoreAtRandom(floats.data(), kWidth, draw, Storage::kBfloat16, halves.data());
      for (int64_t j = 0; j < kWidth; ++j) {
        TFPS_CHECK(halves[j] == 0x3F80 || halves[j] == 0x3F81);
        ups[j] += halves[j] - 0x3F80;
      }
    }
    // Five standard deviations: 5 * sqrt(20000 * 3/8 * 5/8) is 342.
    for (int up : ups) TFPS_CHECK(std::abs(up - 7500) < 342);
  }
}

// Two neighbouring updates, keys, parts or elements must not round alike.
TFPS_TEST(DrawsOfNeighboursAreIndependent) {
  constexpr int64_t kWidth = 64, kDraws = 400;
  const std::vector<float> floats(kWidth, 1.0f + 0.5f / 128);
  std::vector<uint16_t> a(kWidth), b(kWidth);
  for (int kind = 0; kind < 3; ++kind) {
    int alike = 0, neighbours = 0;
    for (int64_t i = 0; i < kDraws; ++i) {
      StoreAtRandom(floats.data(), kWidth, {static_cast<uint64_t>(i), 5 * i, 0}, Storage::kBfloat16, a.data());
      const RoundingDraw other{static_cast<uint64_t>(i) + (kind == 0), 5 * i + (kind == 1), kind == 2};
      StoreAtRandom(floats.data(), kWidth, other, Storage::kBfloat16, b.data());
      for (int64_t j = 0; j < kWidth; ++j) alike += a[j] == b[j];
      for (int64_t j = 1; j < kWidth; ++j) neighbours += a[j] == a[j - 1];
    }
    // Half of 25,600 with five standard deviations of 80.
    TFPS_CHECK(std::abs(alike - 12800) < 400);
    TFPS_CHECK(std::abs(neighbours - 12600) < 400);
  }
}

TFPS_TEST(ARowIsCopiedBetweenAnyTwoStorages) {
  const std::vector<float> floats = {1.0039f, -2.5f, 3.25f};
  std::vector<uint16_t> halves(6, 0);
  CopyRow(floats.data(), Storage::kFloat32, 3, {halves.data(), Storage::kBfloat16}, 3);
  TFPS_CHECK(halves[2] == 0 && FloatOf(halves[3]) == 1.0f && FloatOf(halves[4]) == -2.5f && FloatOf(halves[5]) == 3.25f);
  std::vector<float> back(4, 9);
  CopyRow(halves.data() + 3, Storage::kBfloat16, 3, back.data(), 1);
  TFPS_CHECK(back == (std::vector<float>{9, 1, -2.5f, 3.25f}));
  std::vector<uint16_t> same(3);
  CopyRow(halves.data() + 3, Storage::kBfloat16, 3, {same.data(), Storage::kBfloat16}, 0);
  TFPS_CHECK(same == std::vector<uint16_t>(halves.begin() + 3, halves.end()));
  CopyRow(floats.data(), Storage::kFloat32, 3, back.data(), 0);
  TFPS_CHECK(back[0] == 1.0039f && back[3] == 3.25f);
}

}  // namespace
}  // namespace tfps
