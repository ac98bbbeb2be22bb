// The table against a slow twin: a std::unordered_map from keys to rows, under seeded random operations.
#include "tfps_ops/core/growing/growing_rows.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <unordered_map>

#include "tfps_ops/core/growing/growing_testing.h"
#include "tfps_ops/core/growing/key_mix.h"

namespace tfps {
namespace {

using Rows = std::shared_ptr<GrowingRows>;

GrowingOptions Uniform(int64_t dim) {
  GrowingOptions options;
  options.dim = dim;
  options.first = {FirstValue::Kind::kUniform, -1, 1, 12345, {0, 678}};
  options.hash_seed = 0x1234567;
  return options;
}

std::vector<float> FirstRow(const GrowingOptions& options, int64_t key) {
  std::vector<float> row(options.dim);
  WriteFirstValue(options.first, key, options.dim, row.data());
  return row;
}

// All rows and columns of a table, read in chunks; each key once.
std::map<int64_t, std::vector<float>> ReadAll(const GrowingRows& rows, const std::vector<int>& columns, int64_t chunk_rows) {
  std::map<int64_t, std::vector<float>> all;
  for (int64_t cursor = 0; cursor != RowStore::kEnd;) {
    const GrowingChunk chunk = ValueOf(rows.Scan(columns, cursor, chunk_rows));
    const int64_t count = static_cast<int64_t>(chunk.rows.keys.size());
    TFPS_CHECK(count <= chunk_rows && chunk.meta.size() == chunk.rows.keys.size());
    TFPS_CHECK(count > 0 || chunk.rows.cursor == RowStore::kEnd);
    for (int64_t i = 0; i < count; ++i) {
      std::vector<float> row;
      for (size_t c = 0; c < columns.size(); ++c) {
        const int64_t width = rows.ColumnWidth(columns[c]);
        const std::vector<float>& floats = c == 0 ? chunk.rows.rows : chunk.rows.slots[c - 1];
        row.insert(row.end(), floats.begin() + i * width, floats.begin() + (i + 1) * width);
      }
      TFPS_CHECK(all.emplace(chunk.rows.keys[i], row).second);
    }
    cursor = chunk.rows.cursor;
  }
  return all;
}

// Keys that a careless hash would put together.
Keys AwkwardKeys() {
  Keys keys = {INT64_MIN, -1, 0, 1, int64_t{1} << 62, INT64_MAX, INT64_MIN + 1};
  for (int bit = 0; bit < 63; ++bit) keys.push_back(int64_t{1} << bit);
  for (int64_t i = 0; i < 300; ++i) {
    keys.push_back(1000 + i);                          // one after the other
    keys.push_back(i << 40);                           // multiples of a power of two
    keys.push_back((int64_t{0x7abc} << 48) + i * 3);   // the same high bits
    keys.push_back(-i * 4096);
  }
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
  return keys;
}

TFPS_TEST(MixedKeysAreKeysAgain) {
  Random random(1);
  for (uint64_t seed : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}}) {
    const KeyMix mix(seed);
    std::set<uint64_t> words;
    for (int64_t key : AwkwardKeys()) {
      TFPS_CHECK(mix.KeyOf(mix.WordOf(key)) == key);
      TFPS_CHECK(words.insert(mix.WordOf(key)).second);
    }
    for (int i = 0; i < 1000; ++i) {
      const int64_t key = random.Integer(INT64_MIN, INT64_MAX);
      TFPS_CHECK(mix.KeyOf(mix.WordOf(key)) == key);
    }
  }
}

// The definition of a table with the rule Adagrad.
struct Twin {
  struct Row {
    std::vector<float> row, slot, extra;
  };
  explicit Twin(const GrowingOptions& options) : options(options) {}

  Row New(int64_t key) const {
    return {FirstRow(options, key), std::vector<float>(options.dim, 0.25f), std::vector<float>(1, extra_initial)};
  }
  Row& Make(int64_t key) { return rows.try_emplace(key, New(key)).first->second; }
  void Update(const Keys& keys, const std::vector<float>& gradients, float rate) {
    for (size_t i = 0; i < keys.size(); ++i) {
      Row& row = Make(keys[i]);
      for (int64_t j = 0; j < options.dim; ++j) {
        const float g = gradients[i * options.dim + j];
        row.slot[j] += g * g;
        row.row[j] -= rate * g / std::sqrt(row.slot[j] + 1e-7f);
      }
    }
  }
  void ResetExtra(float initial) {
    extra_initial = initial;
    for (auto& [key, row] : rows) row.extra.assign(1, initial);
  }

  const GrowingOptions options;
  float extra_initial = 0;
  std::unordered_map<int64_t, Row> rows;
};

void CheckSame(const GrowingRows& rows, const Twin& twin, int extra, int64_t chunk_rows) {
  const auto all = ReadAll(rows, extra > 0 ? std::vector<int>{0, 1, extra} : std::vector<int>{0, 1}, chunk_rows);
  TFPS_CHECK(all.size() == twin.rows.size() && rows.Counts().rows == static_cast<int64_t>(all.size()));
  for (const auto& [key, row] : twin.rows) {
    std::vector<float> expected = row.row;
    expected.insert(expected.end(), row.slot.begin(), row.slot.end());
    if (extra > 0) expected.insert(expected.end(), row.extra.begin(), row.extra.end());
    const auto found = all.find(key);
    TFPS_CHECK(found != all.end() && found->second == expected);
  }
}

TFPS_TEST(EveryOperationEqualsASlowTwin) {
  const auto adagrad = ValueOf(MakeRowUpdater("adagrad"));
  const auto sgd = ValueOf(MakeRowUpdater("sgd"));
  const Keys awkward = AwkwardKeys();
  for (int seed = 0; seed < 6; ++seed) {
    Random random(seed);
    const int64_t dim = random.Integer(1, 9);
    const GrowingOptions options = Uniform(dim);
    const Rows rows = ValueOf(MakeGrowingRows(options));
    Twin twin(options);
    TFPS_CHECK(ValueOf(rows->AddColumn(dim, 0.25f)) == 1);
    int extra = -1;
    const int64_t spread = seed % 2 == 0 ? 3000 : 100;
    for (int step = 0; step < 250; ++step) {
      std::set<int64_t> chosen;
      const int64_t count = random.Integer(0, 60);
      for (int64_t i = 0; i < count; ++i) {
        const bool is_awkward = random.Integer(0, 1) == 1;
        chosen.insert(is_awkward ? awkward[random.Integer(0, awkward.size() - 1)] : random.Integer(0, spread));
      }
      const Keys keys(chosen.begin(), chosen.end());
      const ParallelFor& parallel = step % 5 == 0 ? ParallelFor(InThreads) : ParallelFor(InCallersThread);
      switch (random.Integer(0, 9)) {
        case 0: case 1: case 2: {
          const std::vector<float> gradients = random.Floats(keys.size() * dim);
          const float hyper[] = {0.5f, 1e-7f, 0};
          TFPS_CHECK(rows->Update({0, 1}, *adagrad, hyper, Of(keys), gradients.data(), parallel).ok());
          twin.Update(keys, gradients, 0.5f);
          break;
        }
        case 3: {  // of a slot alone: makes no row
          std::vector<float> gradients = random.Floats(keys.size() * dim);
          for (float& f : gradients) f = std::fabs(f);  // a sum of squares stays positive
          const float hyper[] = {-1, 0};
          TFPS_CHECK(rows->Update({1}, *sgd, hyper, Of(keys), gradients.data(), parallel).ok());
          for (size_t i = 0; i < keys.size(); ++i) {
            const auto found = twin.rows.find(keys[i]);
            for (int64_t j = 0; found != twin.rows.end() && j < dim; ++j) found->second.slot[j] += gradients[i * dim + j];
          }
          break;
        }
        case 4: case 5: {  // repeated keys, in any order
          Keys wanted = keys;
          wanted.insert(wanted.end(), keys.rbegin(), keys.rend());
          for (int column : {0, 1}) {
            std::vector<float> out(wanted.size() * dim);
            TFPS_CHECK(rows->Copy(column, Of(wanted), step % 2 == 0, out.data(), parallel).ok());
            for (size_t i = 0; i < wanted.size(); ++i) {
              const auto found = twin.rows.find(wanted[i]);
              const Twin::Row row = found == twin.rows.end() ? twin.New(wanted[i]) : found->second;
              const std::vector<float>& floats = column == 0 ? row.row : row.slot;
              TFPS_CHECK(std::equal(floats.begin(), floats.end(), out.begin() + i * dim));
            }
          }
          break;
        }
        case 6: {
          std::vector<float> values = random.Floats(keys.size() * dim);
          for (float& f : values) f = std::fabs(f);
          const int column = static_cast<int>(random.Integer(0, 1));
          TFPS_CHECK(rows->Assign(column, Of(keys), values.data()).ok());
          for (size_t i = 0; i < keys.size(); ++i) {
            Twin::Row& row = twin.Make(keys[i]);
            (column == 0 ? row.row : row.slot).assign(values.begin() + i * dim, values.begin() + (i + 1) * dim);
          }
          break;
        }
        case 7: {
          int64_t erased = 0;
          for (int64_t key : keys) erased += twin.rows.erase(key);
          TFPS_CHECK(rows->Erase(Of(keys)) == erased);
          break;
        }
        case 8: {  // a column more or less, with rows there
          if (extra > 0) {
            rows->DropColumn(extra);
            TFPS_CHECK(rows->ColumnWidth(extra) == -1);
            extra = -1;
          } else {
            const float initial = random.Float();
            extra = ValueOf(rows->AddColumn(dim == 1 ? 3 : 1, initial));
            TFPS_CHECK(extra == 2);  // the dropped one again
            if (dim != 1) twin.ResetExtra(initial);
          }
          break;
        }
        default: {
          // Ticks come into the blocks while there are rows.
          if (step > 100) TFPS_CHECK(rows->Since(GrowingRows::kNow).ok());
          CheckSame(*rows, twin, dim == 1 ? -1 : extra, random.Integer(1, 500));
        }
      }
      if (step == 200 && seed == 3) rows->Clear(), twin.rows.clear();
    }
    CheckSame(*rows, twin, dim == 1 ? -1 : extra, 1000);
  }
}

TFPS_TEST(ARowThatIsNotStoredReadsItsFirstValueAndIsNotMade) {
  const GrowingOptions options = Uniform(5);
  const Rows rows = ValueOf(MakeGrowingRows(options));
  for (int64_t key : AwkwardKeys()) TFPS_CHECK(Read(*rows, 0, {key}) == FirstRow(options, key));
  TFPS_CHECK(rows->Counts().rows == 0);
}

TFPS_TEST(RowsWithOneCursorComeTogether) {
  // Mixed keys that differ in their lowest bit alone, at both ends and in between, with a neighbour each.
  const GrowingOptions options = Zeros(1);
  const KeyMix mix(options.hash_seed);
  Keys keys;
  for (uint64_t word : {uint64_t{0}, uint64_t{0x8000000000000000}, ~uint64_t{3}}) {
    for (uint64_t i = 0; i < 4; ++i) keys.push_back(mix.KeyOf(word + i));
  }
  const Rows rows = ValueOf(MakeGrowingRows(options));
  TFPS_CHECK(Add(rows.get(), keys, 1).ok());
  for (int64_t most : {1, 2, 3, 5, 100}) {
    Keys seen;
    for (int64_t cursor = 0; cursor != RowStore::kEnd;) {
      const GrowingChunk chunk = ValueOf(rows->Scan({0}, cursor, most));
      TFPS_CHECK(!chunk.rows.keys.empty() && static_cast<int64_t>(chunk.rows.keys.size()) <= std::max<int64_t>(2, most));
      seen.insert(seen.end(), chunk.rows.keys.begin(), chunk.rows.keys.end());
      cursor = chunk.rows.cursor;
      TFPS_CHECK(cursor >= RowStore::kEnd);
    }
    std::sort(seen.begin(), seen.end());
    std::sort(keys.begin(), keys.end());
    TFPS_CHECK(seen == keys);
  }
}

TFPS_TEST(GrowthKeepsEveryRowAndBytesStaySmall) {
  const GrowingOptions options = Uniform(8);
  const Rows rows = ValueOf(MakeGrowingRows(options));
  TFPS_CHECK(rows->Counts().bytes < 500'000);
  const auto sgd = ValueOf(MakeRowUpdater("sgd"));
  const float hyper[] = {-1, 0};
  constexpr int64_t kRows = 1'200'000, kBatch = 40'000;
  const std::vector<float> gradients(kBatch * 8, 1.0f);
  for (int64_t begin = 0; begin < kRows; begin += kBatch) {
    Keys keys(kBatch);
    for (int64_t i = 0; i < kBatch; ++i) keys[i] = (begin + i) * 64;
    TFPS_CHECK(rows->Update({0}, *sgd, hyper, Of(keys), gradients.data(), InThreads).ok());
  }
  const GrowthCounts counts = rows->Counts();
  TFPS_CHECK(counts.rows == kRows && counts.admitted == kRows && counts.refused == 0 && counts.updates == kRows / kBatch);
  // 8 bytes of the key, 3.6 of the index, and what is empty.
  const double overhead = static_cast<double>(counts.bytes) / kRows - 8 * sizeof(float);
  TFPS_CHECK(overhead > 11 && overhead < 15);
  TFPS_CHECK(counts.load > 0.8 && counts.load < 0.94 && counts.probes >= 1 && counts.probes < 1.5);
  Random random(5);
  for (int i = 0; i < 20'000; ++i) {
    const int64_t key = random.Integer(0, kRows - 1) * 64;
    std::vector<float> row = FirstRow(options, key);
    for (float& f : row) f += 1;
    TFPS_CHECK(Read(*rows, 0, {key}) == row);
    TFPS_CHECK(Read(*rows, 0, {key + 1}) == FirstRow(options, key + 1));
  }
  // All of it goes again.
  Keys all(kRows);
  for (int64_t i = 0; i < kRows; ++i) all[i] = i * 64;
  TFPS_CHECK(rows->Erase(Of(all)) == kRows);
  TFPS_CHECK(rows->Counts().rows == 0 && rows->Counts().bytes < 500'000);
}

TFPS_TEST(WrongArgumentsAreNamed) {
  const Rows rows = ValueOf(MakeGrowingRows(Uniform(4)));
  const auto adagrad = ValueOf(MakeRowUpdater("adagrad"));
  const float hyper[] = {1, 0, 0}, values[16] = {};
  float out[16];
  const Keys keys = {3};
  const auto says = [](const Status& status, const char* text) {
    TFPS_CHECK(status.code() == StatusCode::kInvalidArgument);
    TFPS_CHECK(status.message().find(text) != std::string::npos);
  };
  says(rows->Copy(1, Of(keys), false, out, InCallersThread), "`column` must be 0 or come from AddColumn");
  says(rows->Assign(-1, Of(keys), values), "Received: -1.");
  says(rows->Update({}, *adagrad, hyper, Of(keys), values, InCallersThread), "at least one column");
  says(rows->Update({0}, *adagrad, hyper, Of(keys), values, InCallersThread), "a column and 1 slots of the optimizer.");
  says(rows->Update({0, 0}, *adagrad, hyper, Of(keys), values, InCallersThread), "Received: 0 twice.");
  says(rows->Update({0, 1}, *adagrad, hyper, Of(keys), values, InCallersThread), "Received: 1.");
  const int narrow = ValueOf(rows->AddColumn(1, 0));
  says(rows->Update({0, narrow}, *adagrad, hyper, Of(keys), values, InCallersThread), "slot 0 must have 4 columns");
  says(rows->AddColumn(0, 0).status(), "`width` must be at least 1. Received: 0.");
  says(rows->Scan({0}, 0, 0).status(), "`max_rows` must be at least 1. Received: 0.");
  says(rows->Scan({0}, -1, 5).status(), "`cursor` must be 0");
  says(rows->Scan({}, 0, 5).status(), "at least one column");
  says(rows->Scan({7}, 0, 5).status(), "Received: 7.");
  says(rows->AddScores(Of(keys), values), "only where the eviction is by score");
  says(rows->Since(3).status(), "must be kNow");
  const int64_t cursor = ValueOf(rows->Since(GrowingRows::kNow)).cursor;
  says(rows->Since(cursor + 5).status(), "come from an earlier call");
  TFPS_CHECK(rows->Counts().rows == 0);
  GrowingOptions options = Uniform(0);
  says(MakeGrowingRows(options).status(), "`dim` must be at least 1. Received: 0.");
  options = Uniform(1);
  options.admission = {Admission::Kind::kFilter, 16, 10};
  says(MakeGrowingRows(options).status(), "from 1 to 15 with a filter. Received: 16.");
  options.admission = {Admission::Kind::kProbability};
  options.admission.p = 0;
  says(MakeGrowingRows(options).status(), "`admission.p` must be above 0");
  options = Uniform(1);
  options.eviction.kind = Eviction::Kind::kLeastRecent;
  says(MakeGrowingRows(options).status(), "`eviction.max_rows` or `eviction.max_bytes`");
  options.eviction.max_bytes = 1000;
  says(MakeGrowingRows(options).status(), "as an empty table has");
  options.eviction.kind = Eviction::Kind::kUnseen;
  says(MakeGrowingRows(options).status(), "`eviction.steps` or `eviction.seconds`");
  options.eviction.threshold = std::nan("");
  says(MakeGrowingRows(options).status(), "must be finite");
}

}  // namespace
}  // namespace tfps
