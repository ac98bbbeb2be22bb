#include "tfps_ops/core/growing/pending_counts.h"

#include <algorithm>
#include <utility>

namespace tfps {

int64_t PendingCounts::Find(uint64_t word) const {
  int64_t at = Home(word);
  // Linear probing: the entries that follow lie in the same cache line, 5 in each.
  while (entries_[at].count != 0 && !entries_[at].Is(word)) at = Next(at);
  return at;
}

bool PendingCounts::Grow(TableMemory* memory) {
  const int64_t before = bytes();
  // By a quarter and not by doubling, which would leave half of the memory empty in all segments at the same time.
  const int64_t size = static_cast<int64_t>(entries_.size()), larger = size + size / 4 + 4;
  if (!memory->Reserve((larger - size) * static_cast<int64_t>(sizeof(Entry)))) return false;
  std::vector<Entry> old(larger);
  old.swap(entries_);
  for (const Entry& entry : old) {
    if (entry.count != 0) entries_[Find(entry.word())] = entry;
  }
  // The vector may have a larger capacity than was reserved for.
  memory->Take(bytes() - before - (larger - size) * static_cast<int64_t>(sizeof(Entry)));
  return true;
}

uint32_t PendingCounts::Increment(uint64_t word, TableMemory* memory) {
  // At most 15 of 16 entries are taken, so a search ends.
  if ((size_ + 1) * 16 > static_cast<int64_t>(entries_.size()) * 15 && !Grow(memory)) {
    if (entries_.empty()) return 1;  // there is no memory to count in
    // The memory is kept and used again; it is the counts that start anew.
    std::fill(entries_.begin(), entries_.end(), Entry());
    size_ = 0;
  }
  Entry& entry = entries_[Find(word)];
  if (entry.count == 0) {
    entry.low = static_cast<uint32_t>(word), entry.high = static_cast<uint32_t>(word >> 32);
    ++size_;
  }
  return ++entry.count;
}

void PendingCounts::Remove(uint64_t word) {
  if (entries_.empty()) return;
  int64_t hole = Find(word);
  if (entries_[hole].count == 0) return;
  --size_;
  // Entries behind the hole move up, as far as their homes allow, so that no search ends early.
  const int64_t size = static_cast<int64_t>(entries_.size());
  for (int64_t at = Next(hole); entries_[at].count != 0; at = Next(at)) {
    const int64_t from_home = (at - Home(entries_[at].word()) + size) % size, from_hole = (at - hole + size) % size;
    // Its home lies behind the hole, so a search for it never passes there. For example homes 3, 3, 5 lie at 3, 4, 5
    // and the first goes: the second moves to 3, the third stays.
    if (from_home < from_hole) continue;
    entries_[hole] = entries_[at];
    hole = at;
  }
  entries_[hole] = Entry();
}

}  // namespace tfps
