// Which keys get a row: exact counts, the filter of bounded memory, probabilities, and what keys without a row read.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tfps_ops/core/growing/admission_filter.h"
#include "tfps_ops/core/growing/growing_testing.h"
#include "tfps_ops/core/growing/key_mix.h"
#include "tfps_ops/core/growing/pending_counts.h"

namespace tfps {
namespace {

using Rows = std::shared_ptr<GrowingRows>;

GrowingOptions Admitting(const Admission& admission) {
  GrowingOptions options = Zeros(2);
  options.first = {FirstValue::Kind::kUniform, 1, 3, 5, {6, 7}};
  options.admission = admission;
  return options;
}

TFPS_TEST(CountsAreExactAsInASlowTwin) {
  Admission admission;
  admission.kind = Admission::Kind::kCount;
  for (int64_t n : {1, 2, 5}) {
    admission.n = n;
    const Rows rows = ValueOf(MakeGrowingRows(Admitting(admission)));
    Random random(static_cast<int>(n));
    std::map<int64_t, int64_t> counts;
    int64_t refused = 0;
    for (int step = 0; step < 400; ++step) {
      std::set<int64_t> chosen;
      for (int i = 0; i < 100; ++i) chosen.insert(random.Integer(0, 9000));
      const Keys keys(chosen.begin(), chosen.end());
      TFPS_CHECK(Add(rows.get(), keys, 1).ok());
      for (int64_t key : keys) refused += ++counts[key] < n;
      if (step % 50 == 49) {  // who goes begins anew
        TFPS_CHECK(rows->Erase(Of(keys)) == std::count_if(keys.begin(), keys.end(), [&](int64_t k) { return counts[k] >= n; }));
        for (int64_t key : keys) {
          if (counts[key] >= n) counts[key] = 0;
        }
      }
    }
    Keys admitted;
    for (const auto& [key, count] : counts) {
      if (count >= n) admitted.push_back(key);
    }
    TFPS_CHECK(StoredKeys(*rows) == admitted);
    TFPS_CHECK(rows->Counts().refused == refused && rows->Counts().over_budget == 0);
    rows->Clear();
    TFPS_CHECK(Add(rows.get(), {admitted[0]}, 1).ok());
    TFPS_CHECK(rows->Counts().rows == (n == 1 ? 1 : 0));
  }
}

TFPS_TEST_OF_MANY(PendingCountsEqualAMapUnderRemovals) {
  TableMemory memory(0);
  PendingCounts counts;
  const KeyMix mix(3);
  std::map<uint64_t, uint32_t> twin;
  Random random(2);
  for (int step = 0; step < 200'000; ++step) {
    // Of one segment, as the table has it.
    const uint64_t word = mix.WordOf(random.Integer(0, 3000)) >> 12;
    if (random.Integer(0, 3) == 0) {
      counts.Remove(word);
      twin.erase(word);
    } else {
      TFPS_CHECK(counts.Increment(word, &memory) == ++twin[word]);
    }
    TFPS_CHECK(counts.size() == static_cast<int64_t>(twin.size()));
  }
  TFPS_CHECK(memory.bytes() == counts.bytes() && counts.bytes() < 17 * 3000);
}

TFPS_TEST(CountsMakeRoomForRowsAtABudgetOfBytes) {
  GrowingOptions options = Zeros(4);
  options.admission.kind = Admission::Kind::kCount;
  options.admission.n = 2;
  options.eviction.kind = Eviction::Kind::kLeastRecent;
  options.eviction.max_bytes = 3'000'000;
  const Rows rows = ValueOf(MakeGrowingRows(options));
  for (int64_t update = 0; update < 300; ++update) {
    Keys keys;
    for (int64_t i = 0; i < 2000; ++i) keys.push_back(update * 2000 + i);
    TFPS_CHECK(Add(rows.get(), keys, 1).ok());
    TFPS_CHECK(rows->Counts().bytes <= 3'000'000);
  }
}

TFPS_TEST_OF_MANY(TheFilterCountsKeysAndForgetsOldOnes) {
  TableMemory memory(0);
  AdmissionFilter filter(100'000, &memory);
  const KeyMix mix(9);
  const auto count = [&](int64_t key) { return filter.Increment(mix.WordOf(key)); };
  for (int i = 1; i <= 20; ++i) TFPS_CHECK(count(-5) == std::min(i, 15));
  // Half of the filter's keys later it still knows, at least.
  for (int64_t key = 0; key < 45'000; ++key) count(key);
  TFPS_CHECK(count(-5) == 15);
  // A key that keeps coming takes its count along however many others come.
  for (int64_t key = 100'000; key < 300'000; ++key) {
    count(key);
    if (key % 20'000 == 0) TFPS_CHECK(count(-5) == 15);
  }
  // Twice as many keys as it has room for have pushed out the first ones.
  for (int64_t key = 1'000'000; key < 1'200'000; ++key) count(key);
  int64_t known = 0;
  for (int64_t key = 0; key < 10'000; ++key) known += count(key) > 1;
  TFPS_CHECK(known < 300);  // by chance: 1 in 80
  TFPS_CHECK(memory.bytes() <= 3 * 100'000);
  filter.Clear();
  TFPS_CHECK(memory.bytes() == 0 && count(-5) == 1);
}

TFPS_TEST_OF_MANY(TheFilterNeverUndercountsAndSeldomOvercounts) {
  Admission admission;
  admission.kind = Admission::Kind::kFilter;
  admission.n = 3;
  admission.filter_keys = 250'000;  // what is counted at a time is at least half of it
  const Rows rows = ValueOf(MakeGrowingRows(Admitting(admission)));
  const int64_t empty = rows->Counts().bytes;
  Keys keys(100'000);
  for (int64_t i = 0; i < 100'000; ++i) keys[i] = i * 7;
  TFPS_CHECK(Add(rows.get(), keys, 1).ok());
  TFPS_CHECK(rows->Counts().bytes - empty <= 3 * 250'000);
  TFPS_CHECK(Add(rows.get(), keys, 1).ok());
  // Early by two keys that are taken for one; a part in 80, and two more of each are needed: both of them came twice.
  const int64_t early = rows->Counts().rows;
  TFPS_CHECK(early > 0 && early < 100'000 / 40);
  TFPS_CHECK(Add(rows.get(), keys, 1).ok());
  TFPS_CHECK(rows->Counts().rows == 100'000);
  TFPS_CHECK(rows->Counts().refused == 200'000 - early);
}

TFPS_TEST(OnceWithTheFilterIsAdmittedAtOnce) {
  Admission admission;
  admission.kind = Admission::Kind::kFilter;
  admission.filter_keys = 10;
  const Rows rows = ValueOf(MakeGrowingRows(Admitting(admission)));
  TFPS_CHECK(Add(rows.get(), {1, 2, 3}, 1).ok());
  TFPS_CHECK(rows->Counts().rows == 3);
}

TFPS_TEST_OF_MANY(WithAProbabilityOfATenthATenthIsAdmittedAtEachUpdate) {
  Admission admission;
  admission.kind = Admission::Kind::kProbability;
  admission.p = 0.1;
  const Rows rows = ValueOf(MakeGrowingRows(Admitting(admission)));
  Keys keys;
  for (int64_t key = 0; key < 50'000; ++key) keys.push_back(key);
  // Five standard deviations of a binomial.
  const auto near = [](double count, double n, double p) { return std::fabs(count - n * p) < 5 * std::sqrt(n * p * (1 - p)); };
  TFPS_CHECK(Add(rows.get(), keys, 1).ok());
  TFPS_CHECK(near(static_cast<double>(rows->Counts().rows), 50'000, 0.1));
  TFPS_CHECK(Add(rows.get(), keys, 1).ok());
  TFPS_CHECK(near(static_cast<double>(rows->Counts().rows), 50'000, 0.19));
  // Every gradient was applied or counted as dropped: a row has as many ones as updates since it was made.
  double applied = 0;
  for (int64_t key : StoredKeys(*rows)) {
    float first[2];
    WriteFirstValue(Admitting(admission).first, key, 2, first);
    applied += std::round(Read(*rows, 0, {key})[0] - first[0]);
  }
  TFPS_CHECK(rows->Counts().refused == 100'000 - static_cast<int64_t>(applied));
}

TFPS_TEST(WhatAKeyWithoutARowReads) {
  Admission admission;
  const auto reads_mean = [](const Admission& a) {
    const Rows rows = ValueOf(MakeGrowingRows(Admitting(a)));
    const std::vector<float> row = Read(*rows, 0, {77});
    std::vector<float> first(2);
    WriteFirstValue(Admitting(a).first, 77, 2, first.data());
    TFPS_CHECK(row == first || row == std::vector<float>(2, 2.0f));
    return row != first;
  };
  TFPS_CHECK(!reads_mean(admission));
  admission = {Admission::Kind::kCount, 3};
  TFPS_CHECK(reads_mean(admission));
  admission.reads_first_value = true;
  TFPS_CHECK(!reads_mean(admission));
  admission = {Admission::Kind::kCount, 1};  // the next update makes it
  TFPS_CHECK(!reads_mean(admission));
  admission = {Admission::Kind::kFilter, 2, 100};
  TFPS_CHECK(reads_mean(admission));
  admission = {Admission::Kind::kProbability};
  TFPS_CHECK(!reads_mean(admission));
  admission.p = 0.5;
  TFPS_CHECK(reads_mean(admission));
  // A row that is made begins with its first value all the same, and an assigned one needs no admission.
  admission = {Admission::Kind::kCount, 2};
  const Rows rows = ValueOf(MakeGrowingRows(Admitting(admission)));
  std::vector<float> first(2);
  WriteFirstValue(Admitting(admission).first, 77, 2, first.data());
  TFPS_CHECK(Add(rows.get(), {77}, 5).ok() && Read(*rows, 0, {77}) == std::vector<float>(2, 2.0f));
  TFPS_CHECK(Add(rows.get(), {77}, 5).ok() && Read(*rows, 0, {77}) == (std::vector<float>{first[0] + 5, first[1] + 5}));
  TFPS_CHECK(rows->Assign(0, Of({78}), first.data()).ok() && Read(*rows, 0, {78}) == first);
}

}  // namespace
}  // namespace tfps
