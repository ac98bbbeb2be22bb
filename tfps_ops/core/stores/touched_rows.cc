// Rows are found by page: row 2500 is element 452 of page 2.
#include "tfps_ops/core/stores/touched_rows.h"

namespace tfps {

void TouchedRows::OnUpdate(const int64_t* rows, int64_t count) {
  const std::lock_guard<std::mutex> lock(mutex_);
  // An update without rows counts too: the cursor of a reader must never stand for two different states.
  ++update_;
  for (int64_t i = 0; i < count; ++i) {
    const size_t number = rows[i] / kPageRows;
    // Pages come as rows do, so a table of which few rows are trained has few pages.
    if (number >= pages_.size()) pages_.resize(number + 1);
    std::unique_ptr<Page>& page = pages_[number];
    if (page == nullptr) page = std::make_unique<Page>();
    page->updates[rows[i] % kPageRows] = update_;
    page->newest = update_;
  }
}

Result<RowsSince> TouchedRows::Since(int64_t cursor) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  // A cursor ahead of the updates belongs to another record, such as one from before a server was restarted. To answer
  // "nothing" would lose what was updated meanwhile.
  if (cursor < 0 || cursor > update_) {
    return InvalidArgument("`cursor` must be 0 or come from an earlier call, and is at most ", update_,
                           " so far. Received: ", cursor, ".");
  }
  RowsSince since;
  since.cursor = update_;
  for (size_t number = 0; number < pages_.size(); ++number) {
    const Page* page = pages_[number].get();
    // Most pages of a large table are skipped here without a look at their rows.
    if (page == nullptr || page->newest <= cursor) continue;
    for (int64_t i = 0; i < kPageRows; ++i) {
      if (page->updates[i] > cursor) since.rows.push_back(static_cast<int64_t>(number) * kPageRows + i);
    }
  }
  return since;
}

}  // namespace tfps
