// A table that grows whose rows are bfloat16, against the definition: floats that are rounded with the draw of each update.
#include <algorithm>
#include <cmath>
#include <vector>

#include "tfps_ops/core/growing/block_layout.h"
#include "tfps_ops/core/growing/growing_testing.h"
#include "tfps_ops/core/rows/row_conversion.h"

namespace tfps {
namespace {

// A table that grows, with an odd width: two bytes of each column are empty.
TFPS_TEST(ATableThatGrowsIsTheSameInBfloat16) {
  GrowingOptions options = Zeros(3);
  options.storage = Storage::kBfloat16;
  options.first = {FirstValue::Kind::kUniform, -1, 1, 12345, {0, 678}};
  const auto rows = ValueOf(MakeGrowingRows(options));
  const auto adagrad = ValueOf(MakeRowUpdater("adagrad"));
  const int slot = ValueOf(rows->AddColumn(3, 0.1f, Storage::kBfloat16)), wide = ValueOf(rows->AddColumn(3, 0.1f));
  const Keys keys = {7, -3, int64_t{1} << 60};
  // Before there is a row, it reads as it will begin.
  const std::vector<float> before = Read(*rows, 0, keys);
  std::vector<float> first(3);
  WriteFirstValue(options.first, -3, 3, first.data());
  for (int j = 0; j < 3; ++j) TFPS_CHECK(std::abs(before[3 + j] - first[j]) < 0.004f && before[3 + j] != first[j]);
  const std::vector<float> nothing(9, 0.0f), hyperparameters = {0.1f, 1e-7f, 0};
  TFPS_CHECK(rows->Update({0, slot}, *adagrad, hyperparameters.data(), Of(keys), nothing.data(), InCallersThread).ok());
  TFPS_CHECK(Read(*rows, 0, keys) == before);
  // Then as the definition, whose draws have the number of the update; the first one was number 0.
  std::vector<float> twin = before, twin_slot = Read(*rows, slot, keys), twin_wide(9, 0.1f);
  Random random(2);
  for (uint64_t update = 1; update < 40; ++update) {
    const std::vector<float> gradients = random.Floats(9);
    const bool narrow = update % 2 == 0;
    std::vector<float>& slots = narrow ? twin_slot : twin_wide;
    const std::vector<int> columns = {0, narrow ? slot : wide};
    TFPS_CHECK(rows->Update(columns, *adagrad, hyperparameters.data(), Of(keys), gradients.data(), InThreads).ok());
    for (size_t i = 0; i < keys.size(); ++i) {
      float *row = twin.data() + 3 * i, *s = slots.data() + 3 * i;
      for (int j = 0; j < 3; ++j) {
        s[j] += gradients[3 * i + j] * gradients[3 * i + j];
        row[j] -= 0.1f * gradients[3 * i + j] / std::sqrt(s[j] + 1e-7f);
      }
      uint16_t halves[3];
      StoreAtRandom(row, 3, {update, keys[i], 0}, Storage::kBfloat16, halves);
      WidenRow(halves, Storage::kBfloat16, 3, row);
      if (!narrow) continue;
      StoreAtRandom(s, 3, {update, keys[i], 1}, Storage::kBfloat16, halves);
      WidenRow(halves, Storage::kBfloat16, 3, s);
    }
  }
  TFPS_CHECK(Read(*rows, 0, keys) == twin && Read(*rows, slot, keys) == twin_slot && Read(*rows, wide, keys) == twin_wide);
  // Scans and assignments, also of numbers that bfloat16 does not have.
  const GrowingChunk chunk = ValueOf(rows->Scan({0, slot, wide}, 0, 10));
  for (size_t i = 0; i < 3; ++i) {
    const size_t k = std::find(keys.begin(), keys.end(), chunk.rows.keys[i]) - keys.begin();
    for (int j = 0; j < 3; ++j) {
      TFPS_CHECK(chunk.rows.rows[3 * i + j] == twin[3 * k + j] && chunk.rows.slots[0][3 * i + j] == twin_slot[3 * k + j]);
      TFPS_CHECK(chunk.rows.slots[1][3 * i + j] == twin_wide[3 * k + j]);
    }
  }
  const std::vector<float> values(9, 1.0039f);
  TFPS_CHECK(rows->Assign(0, Of(keys), values.data()).ok());
  TFPS_CHECK(Read(*rows, 0, keys) == std::vector<float>(9, 1.0f));
}

TFPS_TEST(BlocksOfBfloat16AreSmaller) {
  BlockLayout floats, halves;
  floats.AddColumn(16, 0, Storage::kFloat32);
  halves.AddColumn(16, 0, Storage::kBfloat16);
  TFPS_CHECK(floats.bytes == 8 + 64 && halves.bytes == 8 + 32);
  // What follows an odd width is at a multiple of 4 all the same.
  BlockLayout odd;
  odd.AddColumn(3, 0, Storage::kBfloat16);
  odd.AddColumn(2, 0, Storage::kFloat32);
  TFPS_CHECK(odd.columns[1].offset == 16 && odd.bytes == 24);
}

TFPS_TEST(SmallNormsAreEvictedInBfloat16) {
  GrowingOptions options = WithEviction(2, Eviction::Kind::kSmallNorm);
  options.storage = Storage::kBfloat16;
  options.eviction.steps = 1;
  options.eviction.threshold = 0.5;
  const auto rows = ValueOf(MakeGrowingRows(options));
  TFPS_CHECK(Add(rows.get(), {1, 2}, 1.0f).ok());
  TFPS_CHECK(Add(rows.get(), {3, 4}, 0.25f).ok());
  // Rows are safe until two ticks have passed.
  for (int i = 0; i < 200; ++i) TFPS_CHECK(Add(rows.get(), {9}, 0.01f).ok());
  rows->Evict(100);
  TFPS_CHECK(StoredKeys(*rows) == (Keys{1, 2, 9}));
}

}  // namespace
}  // namespace tfps
