// Messages that no worker of ours would send, from the first check to the last row: each is refused, or touches rows of its
// table alone. Run under an address sanitizer, where a read or write beside a buffer ends the process.
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "tfps_ops/core/rows/row_request.h"
#include "tfps_ops/core/stores/matrix_row_store.h"
#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

constexpr int64_t kTables = 2, kDim = 3;
const int64_t kOdd[] = {INT64_MIN, -(int64_t{1} << 40), -1, 4, int64_t{1} << 31, int64_t{1} << 62, INT64_MAX};

// Tables of 4 rows and of none.
std::vector<std::unique_ptr<RowStore>> Tables() {
  std::vector<std::unique_ptr<RowStore>> tables;
  tables.push_back(std::make_unique<MatrixRowStore>(std::vector<float>(4 * kDim, 1.0f), kDim, std::vector<int64_t>{kDim}));
  tables.push_back(std::make_unique<MatrixRowStore>(std::vector<float>(), kDim, std::vector<int64_t>{kDim}));
  return tables;
}

// A request that fits the first table, of which one element is anything, half the time.
std::vector<int64_t> RandomRequest(Random* random) {
  std::vector<int64_t> request = {random->Integer(0, 4), 0};
  std::vector<int64_t> rows = {0, 1, 2, 3};
  for (int64_t i = 3; i > 0; --i) std::swap(rows[i], rows[random->Integer(0, i)]);
  request.insert(request.end(), rows.begin(), rows.begin() + request[0]);
  if (random->Integer(0, 1)) request[random->Integer(0, request.size() - 1)] = kOdd[random->Integer(0, 6)];
  request.shrink_to_fit();
  return request;
}

TFPS_TEST(RandomRequestsAreAnsweredOrRefused) {
  Random random(51);
  const auto tables = Tables();
  int answered = 0, refused = 0;
  for (int i = 0; i < 4000; ++i) {
    const std::vector<int64_t> request = RandomRequest(&random);
    const auto pieces = ReadRequest(request.data(), request.size(), kTables);
    Status status = pieces.status();
    std::vector<float> out((request.size() - kTables) * kDim, NAN);
    for (int64_t t = 0; status.ok() && t < kTables; ++t) {
      const PieceRows& piece = pieces.value()[t];
      status = tables[t]->CopyRows({piece.rows, piece.count}, out.data() + piece.first * kDim, InCallersThread);
    }
    ++(status.ok() ? answered : refused);
    for (float f : out) TFPS_CHECK(!status.ok() || f == 1.0f);
  }
  TFPS_CHECK(answered > 500 && refused > 500);
}

TFPS_TEST(RandomUpdatesAreDoneOrRefused) {
  Random random(52);
  const auto adagrad = ValueOf(MakeRowUpdater("adagrad"));
  int done = 0, refused = 0;
  for (int i = 0; i < 2000; ++i) {
    const auto tables = Tables();
    const std::vector<int64_t> request = RandomRequest(&random);
    std::vector<float> message = {0.5f, 0.0f, 0.0f};
    message.resize(3 + 2 * request.size());
    std::memcpy(message.data() + 3, request.data(), request.size() * sizeof(int64_t));
    message.resize(message.size() + (request.size() - kTables) * kDim, 1.0f);
    if (random.Integer(0, 9) == 0) message.resize(random.Integer(0, message.size()));
    message.shrink_to_fit();
    const auto update = ReadUpdate(message.data(), message.size(), 3, kTables, kDim);
    Status status = update.status();
    for (int64_t t = 0; status.ok() && t < kTables; ++t) {
      const RowUpdate& of = update.value();
      status = tables[t]->UpdateRows(*adagrad, of.hyperparameters, {of.pieces[t].rows, of.pieces[t].count},
                                     of.gradients + of.pieces[t].first * kDim, InCallersThread);
    }
    ++(status.ok() ? done : refused);
    // A row is as it was, or has had one step of 0.5: a = 1, w = 1 - 0.5 * 1 / 1. Rows may only change where all was right.
    const auto rows = tables[0]->ScanRows(0, 4);
    for (float f : rows.value().rows) TFPS_CHECK(f == 1.0f || f == 0.5f);
    for (float f : rows.value().slots[0]) TFPS_CHECK(f == 0.0f || f == 1.0f);
  }
  TFPS_CHECK(done > 300 && refused > 300);
}

TFPS_TEST(ATableWithoutRowsRefusesEveryRow) {
  const auto tables = Tables();
  for (int64_t row : {int64_t{0}, int64_t{-1}, INT64_MAX}) {
    float out[kDim];
    const Status status = tables[1]->CopyRows({&row, 1}, out, InCallersThread);
    TFPS_CHECK(status.message() == "rows must be at least 0 and below 0. Received: " + std::to_string(row) + ".");
  }
  TFPS_CHECK(tables[1]->CopyRows({nullptr, 0}, nullptr, InCallersThread).ok());
}

}  // namespace
}  // namespace tfps
