#include "tfps_ops/core/rows/row_request.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

TFPS_TEST(TheRequestOfTheHeaderIsSplit) {
  const std::vector<int64_t> request = {2, 1, 7, 0, 5};
  const auto pieces = ReadRequest(request.data(), 5, 2);
  TFPS_CHECK(pieces.ok() && pieces.value().size() == 2);
  const PieceRows &first = pieces.value()[0], &second = pieces.value()[1];
  TFPS_CHECK(first.count == 2 && first.first == 0 && first.rows[0] == 7 && first.rows[1] == 0);
  TFPS_CHECK(second.count == 1 && second.first == 2 && second.rows[0] == 5);
}

TFPS_TEST(PiecesMayBeEmpty) {
  const std::vector<int64_t> request = {0, 2, 0, 4, 4};
  const auto pieces = ReadRequest(request.data(), 5, 3);
  TFPS_CHECK(pieces.ok());
  TFPS_CHECK(pieces.value()[0].count == 0 && pieces.value()[1].count == 2 && pieces.value()[2].count == 0);
  TFPS_CHECK(pieces.value()[2].first == 2);
  const std::vector<int64_t> none = {0, 0};
  TFPS_CHECK(ReadRequest(none.data(), 2, 2).ok());
}

// What a wrong request is told.
std::string Refusal(const std::vector<int64_t>& request, int64_t pieces) {
  const auto split = ReadRequest(request.data(), request.size(), pieces);
  TFPS_CHECK(!split.ok() && split.status().code() == StatusCode::kInvalidArgument);
  return split.status().message();
}

TFPS_TEST(AWrongRequestIsToldWhatIsWrong) {
  TFPS_CHECK(Refusal({1}, 2) == "`request` must begin with a count for each of 2 tables. Received: 1 elements.");
  TFPS_CHECK(Refusal({-1, 2, 7}, 2) ==
             "the counts of `request` must be at least 0 and add up to its 1 rows. Received: -1 for table 0.");
  TFPS_CHECK(Refusal({0, 2, 7}, 2) ==
             "the counts of `request` must be at least 0 and add up to its 1 rows. Received: 2 for table 1.");
  TFPS_CHECK(Refusal({0, 0, 7}, 2) == "the counts of `request` must add up to its 1 rows. Received: 0 in all.");
  // Counts that overflow when they are summed.
  TFPS_CHECK(Refusal({int64_t{1} << 62, int64_t{1} << 62, 7}, 2).find("4611686018427387904 for table 0") !=
             std::string::npos);
}

TFPS_TEST(WhateverComesIsRefusedOrWithinTheRequest) {
  Random random(3);
  const std::vector<int64_t> odd = {INT64_MIN, -1, 0, 1, 2, 3, int64_t{1} << 62, INT64_MAX};
  int fit = 0;
  for (int i = 0; i < 20000; ++i) {
    std::vector<int64_t> request(random.Integer(0, 6));
    for (int64_t& element : request) element = random.Integer(0, 3) ? random.Integer(0, 2) : odd[random.Integer(0, 7)];
    const int64_t size = request.size(), tables = random.Integer(1, 4);
    const auto pieces = ReadRequest(request.data(), size, tables);
    if (!pieces.ok()) continue;
    ++fit;
    int64_t rows = 0;
    for (const PieceRows& piece : pieces.value()) {
      TFPS_CHECK(piece.first == rows && piece.count >= 0);
      TFPS_CHECK(piece.rows == request.data() + tables + rows);
      rows += piece.count;
    }
    TFPS_CHECK(rows == size - tables);
  }
  TFPS_CHECK(fit > 1000 && fit < 19000);
}

// An update as a worker packs it.
std::vector<float> Packed(const std::vector<float>& hyper, const std::vector<int64_t>& request,
                          const std::vector<float>& gradients) {
  std::vector<float> message = hyper;
  message.resize(hyper.size() + 2 * request.size());
  std::memcpy(message.data() + hyper.size(), request.data(), request.size() * sizeof(int64_t));
  message.insert(message.end(), gradients.begin(), gradients.end());
  return message;
}

TFPS_TEST(AnUpdateIsSplit) {
  // An odd number of hyperparameters: the request behind them is not aligned.
  const std::vector<float> message = Packed({0.5f, 0.25f, 0.125f}, {1, 1, 4, 6}, {1, 2, 3, 4});
  auto update = ReadUpdate(message.data(), message.size(), 3, 2, 2);
  TFPS_CHECK(update.ok());
  // Pieces point into the request, and that must hold for an update that was moved.
  const RowUpdate moved = std::move(update.value());
  TFPS_CHECK(moved.hyperparameters[2] == 0.125f && moved.gradients[3] == 4.0f);
  TFPS_CHECK(moved.pieces[1].rows[0] == 6 && moved.pieces[1].first == 1);
  TFPS_CHECK(moved.pieces[1].rows >= moved.request.data());
}

TFPS_TEST(RandomUpdatesComeBackAsTheyWerePacked) {
  Random random(8);
  for (int i = 0; i < 500; ++i) {
    const int64_t pieces = random.Integer(1, 4), dim = random.Integer(1, 9);
    const std::vector<float> hyper = random.Floats(random.Integer(1, 7));
    std::vector<int64_t> request(pieces);
    for (int64_t& count : request) count = random.Integer(0, 3);
    int64_t rows = 0;
    for (int64_t p = 0; p < pieces; ++p) rows += request[p];
    for (int64_t r = 0; r < rows; ++r) request.push_back(random.Integer(INT64_MIN, kRepeats - 1));
    const std::vector<float> gradients = random.Floats(rows * dim), message = Packed(hyper, request, gradients);
    const auto update = ReadUpdate(message.data(), message.size(), hyper.size(), pieces, dim);
    TFPS_CHECK(update.ok() && update.value().request == request);
    TFPS_CHECK(std::equal(hyper.begin(), hyper.end(), update.value().hyperparameters));
    TFPS_CHECK(std::equal(gradients.begin(), gradients.end(), update.value().gradients));
    TFPS_CHECK(update.value().gradients + rows * dim == message.data() + message.size());
  }
}

TFPS_TEST(RowsThatRepeatBringTheirMeasures) {
  // Row 4 of piece 0 and row 8 of piece 1 repeat; the measures follow all gradients, in the order of the rows.
  const std::vector<float> message =
      Packed({0.5f}, {2, 1, kRepeats + 4, 6, kRepeats + 8}, {1, 2, 3, 4, 5, 6, /*measures*/ 7, 8, 9, 10});
  auto update = ReadUpdate(message.data(), message.size(), 1, 2, 2);
  TFPS_CHECK(update.ok());
  const RowUpdate moved = std::move(update.value());
  TFPS_CHECK(moved.request == std::vector<int64_t>({2, 1, 4, 6, 8}));
  TFPS_CHECK(moved.gradients[4] == 5.0f);
  TFPS_CHECK(moved.measures.size() == 3 && moved.measures[1] == nullptr);
  TFPS_CHECK(moved.measures[0][1] == 8.0f && moved.measures[2][0] == 9.0f);
  // One float too few or too many, or measures for no row.
  for (int64_t size : {message.size() - 1, message.size() + 1}) {
    std::vector<float> other = message;
    other.resize(size);
    TFPS_CHECK(!ReadUpdate(other.data(), size, 1, 2, 2).ok());
  }
  const std::vector<float> extra = Packed({0.5f}, {1, 0, 4}, {1, 2, 3, 4});
  TFPS_CHECK(ReadUpdate(extra.data(), extra.size(), 1, 2, 2).status().message() ==
             "`message` must hold 5 floats, 4 for each of its 1 rows and 2 for each of the 0 that repeat. Received: 11 floats.");
}

TFPS_TEST(UpdatesOfEverySizeAreRefusedOrFit) {
  for (int64_t size = 0; size < 200; ++size) {
    const std::vector<float> message(size, 0.0f);
    const auto update = ReadUpdate(message.data(), size, 3, 2, 4);
    // All bits 0 say that no row gets a gradient, so only the smallest message fits.
    TFPS_CHECK(update.ok() == (size == 3 + 2 * 2));
  }
  const std::vector<float> message(8, 0.0f);
  TFPS_CHECK(ReadUpdate(message.data(), 8, 3, 2, 4).status().message() ==
             "`message` must hold 7 floats, 6 for each of its 0 rows and 4 for each of the 0 that repeat. Received: 8 floats.");
}

}  // namespace
}  // namespace tfps
