#include "tfps_ops/core/growing/gone_log.h"

#include <algorithm>
#include <utility>

namespace tfps {

void GoneLog::Add(uint64_t word, uint32_t tick, TableMemory* memory) {
  const int64_t before = bytes();
  // A vector would double: half of it would be empty in every segment at once.
  if (entries_.size() == entries_.capacity()) entries_.reserve(entries_.size() + entries_.size() / 4 + 8);
  entries_.push_back({static_cast<uint32_t>(word), static_cast<uint32_t>(word >> 32), tick});
  memory->Take(bytes() - before);
}

std::vector<GoneLog::Entry> GoneLog::Cleaned(uint32_t tick, const IsStored& is_stored) const {
  // Entries ascend by tick.
  // A search, not a pass: a reader that comes often looks at the new entries only.
  const auto first = std::partition_point(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.tick <= tick; });
  std::vector<Entry> entries(first, entries_.end());
  // Of entries with one word the latest comes first, and stays.
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.word() != b.word() ? a.word() < b.word() : a.tick > b.tick;
  });
  const auto same_word = [](const Entry& a, const Entry& b) { return a.word() == b.word(); };
  // std::unique keeps the first of equals.
  entries.erase(std::unique(entries.begin(), entries.end(), same_word), entries.end());
  const auto stored = [&](const Entry& e) { return is_stored(e.word()); };
  entries.erase(std::remove_if(entries.begin(), entries.end(), stored), entries.end());
  // Back in the order of ticks, which the search above and Trim need.
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.tick < b.tick; });
  return entries;
}

std::vector<uint64_t> GoneLog::Since(uint32_t tick, const IsStored& is_stored) const {
  std::vector<uint64_t> words;
  for (const Entry& entry : Cleaned(tick, is_stored)) words.push_back(entry.word());
  return words;
}

uint32_t GoneLog::Trim(int64_t limit, const IsStored& is_stored, TableMemory* memory) {
  if (size() <= limit) return 0;
  const int64_t before = bytes();
  // Keys that are stored again, or are in the list twice, go first: dropping them loses nothing.
  std::vector<Entry> entries = Cleaned(0, is_stored);
  // Down to three quarters, so that not every entry from now on is a cleaning.
  const int64_t excess = static_cast<int64_t>(entries.size()) - limit * 3 / 4;
  uint32_t dropped = 0;
  if (excess > 0) {
    // Readers with an earlier cursor are told that the list is not complete.
    dropped = entries[excess - 1].tick;
    entries.erase(entries.begin(), entries.begin() + excess);
  }
  entries.shrink_to_fit();
  entries_ = std::move(entries);
  memory->Take(bytes() - before);
  return dropped;
}

}  // namespace tfps
