// Records against bytes that are put together one by one, cut and changed at every place, for every CPU target.
#include "tfps_ops/core/text/records.h"

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

// Bit by bit, from the definition.
uint32_t SlowCrc32c(std::string_view bytes) {
  uint32_t value = 0xffffffff;
  for (const char byte : bytes) {
    for (int bit = 0; bit < 8; ++bit) {
      const bool is_odd = (value ^ static_cast<unsigned char>(byte) >> bit) & 1;
      value = is_odd ? value >> 1 ^ 0x82f63b78 : value >> 1;
    }
  }
  return ~value;
}

void Append(std::string* to, uint64_t number, int bytes) {
  for (int i = 0; i < bytes; ++i) to->push_back(static_cast<char>(number >> 8 * i));
}

void AppendChecksum(std::string* to, std::string_view of) {
  const uint32_t value = SlowCrc32c(of);
  Append(to, (value >> 15 | value << 17) + 0xa282ead8u, 4);
}

std::string File(const std::vector<std::string>& records) {
  std::string file;
  for (const std::string& record : records) {
    Append(&file, record.size(), 8);
    AppendChecksum(&file, std::string_view(file).substr(file.size() - 8));
    file += record;
    AppendChecksum(&file, record);
  }
  return file;
}

std::vector<std::string> SomeRecords(int seed) {
  Random random(seed);
  std::vector<std::string> records;
  for (const int size : {0, 1, 7, 8, 9, 30, 0, 100}) {
    std::string record;
    for (const float value : random.Floats(size)) record.push_back(static_cast<char>(value * 100));
    records.push_back(record);
  }
  return records;
}

TFPS_TEST(ChecksumsAreTheDefinition) {
  for (CpuTarget target : SupportedCpuTargets()) {
    TFPS_CHECK(Crc32c("123456789", target) == 0xe3069283);  // the check value of the Castagnoli polynomial
    for (const std::string& record : SomeRecords(1)) TFPS_CHECK(Crc32c(record, target) == SlowCrc32c(record));
  }
}

TFPS_TEST(RecordsAreFoundUpToWhereTheBytesAreCut) {
  const std::vector<std::string> records = SomeRecords(2);
  const std::string file = File(records);
  for (CpuTarget target : SupportedCpuTargets()) {
    for (size_t size = 0; size <= file.size(); ++size) {
      // A copy of its own, so that the address sanitizer sees a read behind it.
      const std::vector<char> bytes(file.begin(), file.begin() + size);
      const RecordSplit split = SplitRecords({bytes.data(), bytes.size()}, target);
      size_t whole = 0, end = 0;
      while (whole < records.size() && end + 16 + records[whole].size() <= size) end += 16 + records[whole++].size();
      TFPS_CHECK(split.is_valid && split.end == end && split.records.size() == whole);
      for (size_t i = 0; i < whole; ++i) TFPS_CHECK(split.records[i] == records[i]);
    }
  }
}

TFPS_TEST(AChangedByteIsFoundWhereverItIs) {
  const std::vector<std::string> records = SomeRecords(3);
  const std::string file = File(records);
  for (CpuTarget target : SupportedCpuTargets()) {
    for (size_t at = 0; at < file.size(); ++at) {
      std::string changed = file;
      changed[at] ^= 4;
      const RecordSplit split = SplitRecords(changed, target);
      TFPS_CHECK(!split.is_valid && split.records.size() < records.size() && split.end <= at);
    }
  }
}

TFPS_TEST(AHugeLengthIsNoRecord) {
  for (CpuTarget target : SupportedCpuTargets()) {
    for (const uint64_t length : {std::numeric_limits<uint64_t>::max(), std::numeric_limits<uint64_t>::max() - 15}) {
      std::string file;
      Append(&file, length, 8);
      AppendChecksum(&file, std::string_view(file).substr(0, 8));
      file += std::string(100, 'x');
      const RecordSplit split = SplitRecords(file, target);
      TFPS_CHECK(split.is_valid && split.end == 0 && split.records.empty());
    }
  }
}

}  // namespace
}  // namespace tfps
