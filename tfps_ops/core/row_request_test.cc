#include "tfps_ops/core/row_request.h"

#include <algorithm>
#include <cstring>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

TFPS_TEST(ARequestIsTakenApart) {
  const std::vector<int64_t> request = {2, 0, 1, 7, 0, 5};
  std::vector<PieceRows> pieces;
  TFPS_CHECK(ReadRequest(request.data(), 6, 3, &pieces).empty());
  TFPS_CHECK(pieces[0].count == 2 && pieces[0].first == 0 && pieces[0].rows[1] == 0);
  TFPS_CHECK(pieces[1].count == 0);
  TFPS_CHECK(pieces[2].count == 1 && pieces[2].first == 2 && pieces[2].rows[0] == 5);
}

TFPS_TEST(WhateverComesIsRefusedOrWithinTheRequest) {
  Random random(3);
  const std::vector<int64_t> odd = {INT64_MIN, -1, 0, 1, 2, 3, int64_t{1} << 62, INT64_MAX};
  int fit = 0, refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::vector<int64_t> request(random.Integer(0, 6));
    for (int64_t& element : request) element = random.Integer(0, 3) ? random.Integer(0, 2) : odd[random.Integer(0, 7)];
    const int64_t size = request.size(), tables = random.Integer(1, 4);
    std::vector<PieceRows> pieces;
    if (!ReadRequest(request.data(), size, tables, &pieces).empty()) continue;
    ++fit;
    int64_t rows = 0;
    for (const PieceRows& piece : pieces) {
      TFPS_CHECK(piece.first == rows && piece.count >= 0);
      rows += piece.count;
      const auto in_range = [](int64_t row) { return row >= 0 && row < 3; };
      const bool all = std::all_of(piece.rows, piece.rows + piece.count, in_range);
      TFPS_CHECK(CheckRows(piece, 3).empty() == all);
      refused += !all;
    }
    TFPS_CHECK(rows == size - tables);
  }
  TFPS_CHECK(fit > 1000 && refused > 100);
}

TFPS_TEST(AnUpdateIsTakenApart) {
  const int64_t request[] = {1, 1, 4, 6};
  std::vector<float> message = {0.5f, 0.25f, 0.125f};  // an odd number: what follows is not aligned
  message.resize(3 + 8);
  std::memcpy(message.data() + 3, request, sizeof(request));
  for (float gradient : {1.0f, 2.0f, 3.0f, 4.0f}) message.push_back(gradient);
  RowUpdate update;
  TFPS_CHECK(ReadUpdate(message.data(), message.size(), 3, 2, 2, &update).empty());
  TFPS_CHECK(update.hyperparameters[2] == 0.125f && update.gradients[3] == 4.0f);
  TFPS_CHECK(update.pieces[1].rows[0] == 6 && update.pieces[1].first == 1);
}

TFPS_TEST(UpdatesOfEverySizeAreRefusedOrFit) {
  Random random(4);
  for (int64_t size = 0; size < 200; ++size) {
    const std::vector<float> message(size, 0.0f);
    RowUpdate update;
    const std::string wrong = ReadUpdate(message.data(), size, 3, 2, 4, &update);
    // All bits 0 say that no row gets a gradient, so only the smallest message fits.
    TFPS_CHECK(wrong.empty() == (size == 3 + 2 * 2));
  }
}

}  // namespace
}  // namespace tfps
