#include "tfps_ops/core/stores/row_matrix.h"

#include <string>
#include <vector>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

// A matrix of 5 rows and two slots of different widths, each element its own number.
struct Example {
  std::vector<float> table, wide, narrow;
  RowMatrix matrix;

  Example() {
    for (int i = 0; i < 15; ++i) table.push_back(i), wide.push_back(100 + i);
    for (int i = 0; i < 5; ++i) narrow.push_back(200 + i);
    matrix.table = table.data();
    matrix.slots[0] = {wide.data(), 3};
    matrix.slots[1] = {narrow.data(), 1};
    matrix.slot_count = 2;
    matrix.rows = 5;
    matrix.dim = 3;
  }
};

TFPS_TEST(KeysOutsideTheRowsAreNamed) {
  const std::vector<int64_t> keys = {0, 4, 2, 5, -1};
  TFPS_CHECK(CheckKeys({keys.data(), 3}, 5).ok());
  TFPS_CHECK(CheckKeys({keys.data(), 5}, 5).message() == "rows must be at least 0 and below 5. Received: 5.");
  TFPS_CHECK(CheckKeys({keys.data(), 5}, 6).message() == "rows must be at least 0 and below 6. Received: -1.");
  TFPS_CHECK(CheckKeys({keys.data(), 0}, 0).ok());
}

TFPS_TEST(SlotsAreCheckedInNumberAndWidth) {
  Example example;
  const auto adam = ValueOf(MakeRowUpdater("adam")), sgd = ValueOf(MakeRowUpdater("sgd"));
  const auto rowwise = ValueOf(MakeRowUpdater("rowwise_adagrad"));
  TFPS_CHECK(CheckSlots(example.matrix, *adam).message() ==
             "slot 1 must have 3 columns for rows of 3. Received: 1 columns.");
  TFPS_CHECK(CheckSlots(example.matrix, *sgd).message() == "the optimizer needs 0 slots. Received: 2.");
  example.matrix.slots[0] = example.matrix.slots[1];
  example.matrix.slot_count = 1;
  TFPS_CHECK(CheckSlots(example.matrix, *rowwise).ok());
  example.matrix.slot_count = 0;
  TFPS_CHECK(CheckSlots(example.matrix, *sgd).ok());
}

TFPS_TEST(AChunkHasRowsAndSlotsOfTheSameKeys) {
  const Example example;
  const auto chunk = ScanRows(example.matrix, 3, 2);
  TFPS_CHECK(chunk.ok());
  TFPS_CHECK(chunk.value().keys == (std::vector<int64_t>{3, 4}));
  TFPS_CHECK(chunk.value().rows == (std::vector<float>{9, 10, 11, 12, 13, 14}));
  TFPS_CHECK(chunk.value().slots[0] == (std::vector<float>{109, 110, 111, 112, 113, 114}));
  TFPS_CHECK(chunk.value().slots[1] == (std::vector<float>{203, 204}));
  TFPS_CHECK(chunk.value().cursor == RowStore::kEnd);
}

TFPS_TEST(CursorsOfAScanOfFiveRowsByTwo) {
  const Example example;
  std::vector<int64_t> cursors;
  for (int64_t cursor = 0; cursor != RowStore::kEnd; cursor = ScanRows(example.matrix, cursor, 2).value().cursor) {
    cursors.push_back(cursor);
  }
  TFPS_CHECK(cursors == (std::vector<int64_t>{0, 2, 4}));
  // A table that has shrunk to the cursor since is at its end, one that has shrunk further refuses it.
  TFPS_CHECK(ScanRows(example.matrix, 5, 2).value().keys.empty());
  TFPS_CHECK(ScanRows(example.matrix, 6, 2).status().message().find("a scan of 5 rows. Received: 6.") !=
             std::string::npos);
}

TFPS_TEST(AChunkIsACopy) {
  Example example;
  const auto chunk = ScanRows(example.matrix, 0, 1);
  example.table[0] = example.wide[0] = example.narrow[0] = -1;
  TFPS_CHECK(chunk.value().rows[0] == 0 && chunk.value().slots[0][0] == 100 && chunk.value().slots[1][0] == 200);
}

TFPS_TEST(RowsAreUpdatedInPlaceWithTheirSlots) {
  Example example;
  example.matrix.slot_count = 1;  // the wide one, as Adagrad's
  example.wide.assign(15, 0.0f);
  const auto adagrad = ValueOf(MakeRowUpdater("adagrad"));
  const int64_t key = 2;
  const float gradients[] = {2, 2, 2}, hyper[] = {1.0f, 0.0f, 0.0f};
  TFPS_CHECK(CheckUpdate(example.matrix, *adagrad, {&key, 1}).ok());
  UpdateRows(example.matrix, *adagrad, hyper, {&key, 1}, gradients, InThreads);
  for (int i = 0; i < 15; ++i) {
    const bool updated = i / 3 == 2;  // a = 4 and w -= 2 / 2
    TFPS_CHECK(example.table[i] == (updated ? i - 1 : i) && example.wide[i] == (updated ? 4 : 0));
  }
}

}  // namespace
}  // namespace tfps
