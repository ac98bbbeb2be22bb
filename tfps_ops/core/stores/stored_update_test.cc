// Updates of rows that are stored as bfloat16, against the definition: widen, update as floats, round with the draw of the row.
#include "tfps_ops/core/stores/stored_update.h"

#include <cmath>
#include <string>
#include <vector>

#include "tfps_ops/core/rows/row_conversion.h"
#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

constexpr int64_t kRows = 60;

// A matrix that owns its numbers, as they are stored.
struct Part {
  Part(int64_t width, Storage storage, const std::vector<float>& values)
      : width(width), storage(storage), bytes(values.size() * BytesOf(storage)) {
    StoreNearest(values.data(), static_cast<int64_t>(values.size()), storage, bytes.data());
  }

  void* Row(int64_t row) { return bytes.data() + row * width * BytesOf(storage); }

  int64_t width;
  Storage storage;
  std::vector<uint8_t> bytes;
};

// A table with the slots of a rule; slots are positive, as some rules take their roots.
struct Table {
  Table(const RowUpdater& updater, int64_t dim, const std::vector<Storage>& storages, int seed) {
    Random random(seed);
    for (int p = 0; p <= updater.slots(); ++p) {
      const int64_t width = p == 0 ? dim : updater.SlotWidth(p - 1, dim);
      std::vector<float> values = random.Floats(kRows * width);
      for (float& value : values) value = p == 0 ? value : std::abs(value) + 0.1f;
      parts.emplace_back(width, storages[p], values);
    }
  }

  RowMatrix Matrix(uint64_t update) {
    RowMatrix matrix;
    matrix.table = parts[0].bytes.data();
    matrix.storage = parts[0].storage;
    matrix.dim = parts[0].width;
    matrix.rows = kRows;
    matrix.update = update;
    matrix.slot_count = static_cast<int>(parts.size()) - 1;
    for (int i = 0; i < matrix.slot_count; ++i) {
      matrix.slots[i] = {parts[1 + i].bytes.data(), parts[1 + i].width, parts[1 + i].storage};
    }
    return matrix;
  }

  std::vector<Part> parts;
};

// The definition, one row after the other.
void SlowUpdate(Table* table, const RowUpdater& updater, const std::vector<float>& hyperparameters, uint64_t update,
                const std::vector<int64_t>& keys, const std::vector<float>& gradients) {
  const int64_t zero = 0, dim = table->parts[0].width;
  for (size_t i = 0; i < keys.size(); ++i) {
    std::vector<std::vector<float>> floats;
    for (Part& part : table->parts) {
      floats.emplace_back(part.width);
      WidenRow(part.Row(keys[i]), part.storage, part.width, floats.back().data());
    }
    RowBlock block;
    block.table = floats[0].data();
    for (size_t p = 1; p < floats.size(); ++p) block.slots[p - 1] = floats[p].data();
    block.rows = &zero;
    block.gradients = gradients.data() + i * dim;
    block.count = 1;
    block.dim = dim;
    updater.Apply(hyperparameters.data(), block, InCallersThread);
    for (size_t p = 0; p < floats.size(); ++p) {
      Part& part = table->parts[p];
      const RoundingDraw draw{update, keys[i], static_cast<int>(p)};
      StoreAtRandom(floats[p].data(), part.width, draw, part.storage, part.Row(keys[i]));
    }
  }
}

// Every combination of storages for `parts` parts.
std::vector<std::vector<Storage>> Combinations(int parts) {
  std::vector<std::vector<Storage>> all;
  for (int bits = 0; bits < 1 << parts; ++bits) {
    all.emplace_back();
    for (int p = 0; p < parts; ++p) all.back().push_back((bits >> p & 1) != 0 ? Storage::kBfloat16 : Storage::kFloat32);
  }
  return all;
}

// Numbers that every rule can take; the step of Adam is 3.
std::vector<float> SomeHyperparameters(const RowRule& rule) {
  std::vector<float> numbers(rule.hyperparameter_count, 0.1f);
  const std::string names = std::string(", ") + rule.hyperparameters + ",";
  int position = 0;
  for (size_t at = 0; (at = names.find(", ", at)) != std::string::npos; ++at, ++position) {
    if (names.compare(at, 7, ", step,") == 0) numbers[position] = 3;
    if (names.compare(at, 23, ", learning_rate_power,") == 0) numbers[position] = -0.5f;
  }
  numbers.back() = 0.01f;  // the decay
  return numbers;
}

TFPS_TEST(EveryRuleUpdatesEveryStorageAsTheDefinitionDoes) {
  Random random(5);
  for (const RowRule& rule : RowRules()) {
    const auto updater = ValueOf(MakeRowUpdater(rule.name));
    const std::vector<float> hyperparameters = SomeHyperparameters(rule);
    for (int64_t dim : {1, 3, 8, 19}) {
      for (const std::vector<Storage>& storages : Combinations(1 + updater->slots())) {
        Table fast(*updater, dim, storages, 1), slow(*updater, dim, storages, 1);
        for (uint64_t update = 0; update < 3; ++update) {
          // 37 rows: four groups of eight and a rest, in an order of their own.
          std::vector<int64_t> keys;
          for (int64_t k = 0; k < 37; ++k) keys.push_back(k * 7 % kRows);
          const std::vector<float> gradients = random.Floats(37 * dim);
          const RowMatrix matrix = fast.Matrix(update);
          // By UpdateRows, which also takes the path of floats.
          UpdateRows(matrix, *updater, hyperparameters.data(), {keys.data(), 37}, gradients.data(), InThreads);
          SlowUpdate(&slow, *updater, hyperparameters, update, keys, gradients);
          for (size_t p = 0; p < fast.parts.size(); ++p) TFPS_CHECK(fast.parts[p].bytes == slow.parts[p].bytes);
        }
      }
    }
  }
}

// 2,000 updates of 1/2,000 each move a row by 1. Rounded to the nearest, none of them would move it at all.
TFPS_TEST(SmallUpdatesAddUp) {
  const auto sgd = ValueOf(MakeRowUpdater("sgd"));
  const std::vector<float> hyperparameters = {1.0f / 2000, 0};
  const std::vector<float> ones(kRows * 8, 1.0f), gradients(kRows * 8, -1.0f);
  std::vector<int64_t> keys;
  for (int64_t k = 0; k < kRows; ++k) keys.push_back(k);
  Part part(8, Storage::kBfloat16, ones);
  RowMatrix matrix;
  matrix.table = part.bytes.data();
  matrix.storage = Storage::kBfloat16;
  matrix.dim = 8;
  matrix.rows = kRows;
  for (matrix.update = 0; matrix.update < 2000; ++matrix.update) {
    UpdateRows(matrix, *sgd, hyperparameters.data(), {keys.data(), kRows}, gradients.data(), InCallersThread);
  }
  std::vector<float> values(kRows * 8);
  WidenRow(part.bytes.data(), Storage::kBfloat16, kRows * 8, values.data());
  double sum = 0;
  for (float value : values) sum += value;
  // A value takes about 128 random steps of 1/128: a deviation of 0.09, and of 0.004 for the mean of 480.
  TFPS_CHECK(std::abs(sum / values.size() - 2) < 0.02);
  // The nearest bfloat16 of the first step is where it began.
  const float next = 1 + 1.0f / 2000;
  uint16_t half;
  StoreNearest(&next, 1, Storage::kBfloat16, &half);
  TFPS_CHECK(half == 0x3F80);
}

TFPS_TEST(CopiesAndScansWidenWhatIsStored) {
  const auto adagrad = ValueOf(MakeRowUpdater("adagrad"));
  Table table(*adagrad, 3, {Storage::kBfloat16, Storage::kBfloat16}, 3);
  const RowMatrix matrix = table.Matrix(0);
  const std::vector<int64_t> keys = {5, 0, 59, 5};
  std::vector<float> rows(12);
  TFPS_CHECK(CopyRows(matrix, {keys.data(), 4}, rows.data(), InThreads).ok());
  std::vector<uint16_t> halves(12);
  TFPS_CHECK(CopyRows(matrix, {keys.data(), 4}, {halves.data(), Storage::kBfloat16}, InThreads).ok());
  const RowChunk chunk = ValueOf(ScanRows(matrix, 0, 1000));
  std::vector<float> widened(12);
  WidenRow(halves.data(), Storage::kBfloat16, 12, widened.data());
  TFPS_CHECK(widened == rows);
  for (int i = 0; i < 12; ++i) TFPS_CHECK(rows[i] == chunk.rows[keys[i / 3] * 3 + i % 3]);
  std::vector<float> slots(kRows * 3);
  WidenRow(table.parts[1].bytes.data(), Storage::kBfloat16, kRows * 3, slots.data());
  TFPS_CHECK(chunk.slots[0] == slots);
}

}  // namespace
}  // namespace tfps
