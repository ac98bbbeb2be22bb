#include "tfps_ops/core/growing/admission_filter.h"

#include <algorithm>
#include <mutex>

namespace tfps {
namespace {

// Four bits count to 15, which is AdmissionFilter::kMaxCount; the other 12 of an entry are the fingerprint.
constexpr int kCountBits = 4, kCountMask = 15;
constexpr double kLoad = 0.8;  // of a full generation; buckets overflow seldom

// A shard of few keys would be full by chance.
constexpr int64_t kFewestKeys = 16;

// 12 bits of a word that choose neither its shard nor its bucket; never 0, so that no entry in use is.
uint16_t Fingerprint(uint64_t word) { return static_cast<uint16_t>(std::max<uint64_t>(1, word & 0xfff)); }

}  // namespace

AdmissionFilter::AdmissionFilter(int64_t keys, TableMemory* memory) : memory_(memory) {
  // Half of the keys a generation: 1,000,000 keys are 256 shards of 2 * 1,954 keys, in 77 buckets (5 kB) each generation.
  keys_of_generation_ = std::max(kFewestKeys, (keys + 2 * kShards - 1) / (2 * kShards));
  buckets_of_generation_ = static_cast<int64_t>(keys_of_generation_ / (kLoad * kBucketEntries)) + 1;
}

void AdmissionFilter::Allocate(Shard* shard) {
  // Not reserved: the filter is part of what was asked for. Budgets count it.
  memory_->Take(2 * buckets_of_generation_ * static_cast<int64_t>(sizeof(Bucket)));
  shard->young.buckets.resize(buckets_of_generation_);
  shard->old.buckets.resize(buckets_of_generation_);
}

uint16_t* AdmissionFilter::Find(Generation* generation, uint64_t word, bool add) const {
  const int64_t buckets = buckets_of_generation_;
  // Bits 20 to 51; the shard has bits 56 to 63 and the fingerprint bits 0 to 11, so the three tell nothing of each other.
  int64_t at = static_cast<int64_t>(((word >> 20 & 0xffffffff) * static_cast<uint64_t>(buckets)) >> 32);
  // A generation has more entries than keys, so a free one is found.
  for (;; at = at + 1 == buckets ? 0 : at + 1) {
    for (uint16_t& entry : generation->buckets[at].entries) {
      if (entry >> kCountBits == Fingerprint(word)) return &entry;
      // Entries are never freed one by one, so nothing of this word can lie behind a free entry.
      if (entry == 0) return add ? &entry : nullptr;
    }
  }
}

int AdmissionFilter::Increment(uint64_t word) {
  Shard& shard = ShardOf(word);
  const std::lock_guard<SpinLock> lock(shard.lock);
  // A shard at a time: a table that sees few keys pays for few shards.
  if (shard.young.buckets.empty()) Allocate(&shard);
  uint16_t* entry = Find(&shard.young, word, false);
  int count = 0;
  if (entry != nullptr) {
    count = *entry & kCountMask;
  } else {
    if (shard.young.used == keys_of_generation_) {
      // The young generation becomes the old one, and the buckets of the forgotten one are used again.
      std::swap(shard.young, shard.old);
      std::fill(shard.young.buckets.begin(), shard.young.buckets.end(), Bucket());
      shard.young.used = 0;
    }
    // A key that was in the forgotten generation alone begins at 0 again.
    const uint16_t* before = Find(&shard.old, word, false);
    if (before != nullptr) count = *before & kCountMask;
    entry = Find(&shard.young, word, true);
    ++shard.young.used;
  }
  // At the limit it stays: one more would run over into the fingerprint and make the entry another key's.
  count = std::min<int>(count + 1, kMaxCount);
  *entry = static_cast<uint16_t>(Fingerprint(word) << kCountBits | count);
  return count;
}

void AdmissionFilter::Clear() {
  for (Shard& shard : shards_) {
    const std::lock_guard<SpinLock> lock(shard.lock);
    memory_->Take(-static_cast<int64_t>((shard.young.buckets.size() + shard.old.buckets.size()) * sizeof(Bucket)));
    shard.young = shard.old = Generation();
  }
}

}  // namespace tfps
