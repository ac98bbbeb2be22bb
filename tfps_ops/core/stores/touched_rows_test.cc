#include "tfps_ops/core/stores/touched_rows.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <set>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

using Rows = std::vector<int64_t>;

void Touch(TouchedRows* touched, const Rows& rows) { touched->OnUpdate(rows.data(), rows.size()); }

RowsSince Since(const TouchedRows& touched, int64_t cursor) {
  auto since = touched.Since(cursor);
  TFPS_CHECK(since.ok());
  return since.value();
}

TFPS_TEST(TheExampleOfTouchedRows) {
  TouchedRows touched;
  Touch(&touched, {5, 2});
  Touch(&touched, {2, 9});
  TFPS_CHECK(Since(touched, 0).rows == (Rows{2, 5, 9}) && Since(touched, 0).cursor == 2);
  TFPS_CHECK(Since(touched, 1).rows == (Rows{2, 9}) && Since(touched, 1).cursor == 2);
  TFPS_CHECK(Since(touched, 2).rows.empty() && Since(touched, 2).cursor == 2);
}

TFPS_TEST(NothingIsTouchedBeforeTheFirstUpdate) {
  const TouchedRows touched;
  TFPS_CHECK(Since(touched, 0).rows.empty() && Since(touched, 0).cursor == 0);
}

TFPS_TEST(AnUpdateOfNoRowsMovesTheCursorAndTouchesNothing) {
  TouchedRows touched;
  touched.OnUpdate(nullptr, 0);
  TFPS_CHECK(Since(touched, 0).rows.empty() && Since(touched, 0).cursor == 1);
}

TFPS_TEST(RowsAtTheEdgesOfPagesAreFound) {
  const Rows edges = {0, 1, 1023, 1024, 1025, 2047, 2048, 1024 * 1024 - 1, 1024 * 1024, 99'999'999};
  for (int64_t row : edges) {
    TouchedRows touched;
    Touch(&touched, {row});
    TFPS_CHECK(Since(touched, 0).rows == Rows{row});
  }
  TouchedRows touched;
  Touch(&touched, Rows(edges.rbegin(), edges.rend()));  // whatever the order of an update, the answer ascends
  TFPS_CHECK(Since(touched, 0).rows == edges);
}

TFPS_TEST(ARowThatAnUpdateHasTwiceIsToldOnce) {
  TouchedRows touched;
  Touch(&touched, {7, 7, 3, 7});
  TFPS_CHECK(Since(touched, 0).rows == (Rows{3, 7}));
}

TFPS_TEST(ACursorThatNobodyWasGivenIsRefused) {
  TouchedRows touched;
  Touch(&touched, {1});
  for (int64_t cursor : {int64_t{-1}, int64_t{2}, INT64_MIN, INT64_MAX}) {
    const Status status = touched.Since(cursor).status();
    TFPS_CHECK(status.code() == StatusCode::kInvalidArgument);
    TFPS_CHECK(status.message().find("at most 1 so far. Received: " + std::to_string(cursor) + ".") != std::string::npos);
  }
}

// The definition: the last update of each row in a map.
class Slow {
 public:
  void Touch(const Rows& rows) {
    ++update_;
    for (int64_t row : rows) last_[row] = update_;
  }

  Rows Since(int64_t cursor) const {
    Rows rows;
    for (const auto& [row, update] : last_) {
      if (update > cursor) rows.push_back(row);
    }
    return rows;
  }

  int64_t update() const { return update_; }

 private:
  std::map<int64_t, int64_t> last_;
  int64_t update_ = 0;
};

TFPS_TEST(TouchedRowsEqualASlowTwinAtEveryCursor) {
  for (int seed = 0; seed < 20; ++seed) {
    Random random(seed);
    const int64_t rows = random.Integer(1, random.Integer(0, 1) ? 20 : 5000);
    TouchedRows touched;
    Slow slow;
    for (int update = 0; update < 60; ++update) {
      Rows batch(random.Integer(0, 12));
      for (int64_t& row : batch) row = random.Integer(0, rows - 1);
      Touch(&touched, batch);
      slow.Touch(batch);
    }
    for (int64_t cursor = 0; cursor <= slow.update(); ++cursor) {
      const RowsSince since = Since(touched, cursor);
      TFPS_CHECK(since.rows == slow.Since(cursor) && since.cursor == slow.update());
    }
  }
}

TFPS_TEST(ReadersThatFollowTheirCursorsMissNothing) {
  // Several readers, each of which asks at moments of its own: what one was told between two calls is what changed there.
  Random random(31);
  TouchedRows touched;
  Slow slow;
  std::vector<int64_t> cursors(3, 0);
  for (int update = 0; update < 500; ++update) {
    Rows batch(random.Integer(1, 6));
    for (int64_t& row : batch) row = random.Integer(0, 3000);
    Touch(&touched, batch);
    slow.Touch(batch);
    int64_t& cursor = cursors[random.Integer(0, 2)];
    const RowsSince since = Since(touched, cursor);
    TFPS_CHECK(since.rows == slow.Since(cursor));
    cursor = since.cursor;
  }
}

TFPS_TEST(ThreadsTouchAndReadAtOnce) {
  // Each writer marks rows of its own, page-crossing on purpose; readers follow the cursor until all writers are done.
  constexpr int64_t kWriters = 3, kRowsOfWriter = 1500, kUpdates = 300;
  TouchedRows touched;
  std::atomic<int> writing{kWriters};
  std::vector<std::thread> threads;
  for (int64_t writer = 0; writer < kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      for (int64_t update = 0; update < kUpdates; ++update) {
        const int64_t first = writer * kRowsOfWriter + update * 5;
        Touch(&touched, {first, first + 1, first + 2, first + 3, first + 4});
      }
      --writing;
    });
  }
  std::vector<std::set<int64_t>> seen(2);
  for (std::set<int64_t>& rows : seen) {
    threads.emplace_back([&] {
      int64_t cursor = 0;
      bool last = false;
      while (!last) {
        last = writing == 0;  // read before the call, so that the last call sees everything
        const RowsSince since = Since(touched, cursor);
        TFPS_CHECK(since.cursor >= cursor && since.rows.size() % 5 == 0);  // updates are seen whole
        rows.insert(since.rows.begin(), since.rows.end());
        cursor = since.cursor;
      }
      TFPS_CHECK(cursor == kWriters * kUpdates);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::set<int64_t>& rows : seen) {
    TFPS_CHECK(static_cast<int64_t>(rows.size()) == kWriters * kRowsOfWriter);
    TFPS_CHECK(*rows.rbegin() == kWriters * kRowsOfWriter - 1);
  }
}

}  // namespace
}  // namespace tfps
