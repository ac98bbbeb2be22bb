// CRC-32C by the instruction of SSE 4.2, or by a table; and a walk from record to record.
#include "tfps_ops/core/text/records.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace tfps {
namespace {

constexpr size_t kHeadBytes = 12, kFootBytes = 4;
constexpr uint32_t kPolynomial = 0x82f63b78;

constexpr std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = value & 1 ? value >> 1 ^ kPolynomial : value >> 1;
    table[byte] = value;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kTable = MakeTable();

template <typename Number>
Number Load(const char* from) {
  Number value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

uint32_t CrcByTable(const char* data, size_t size) {
  uint32_t value = ~uint32_t{0};
  for (size_t i = 0; i < size; ++i) value = kTable[(value ^ static_cast<unsigned char>(data[i])) & 0xff] ^ value >> 8;
  return ~value;
}

#if defined(__x86_64__)
// Every CPU of the targets above the baseline has SSE 4.2.
__attribute__((target("sse4.2"))) uint32_t CrcByInstruction(const char* data, size_t size) {
  uint64_t value = ~uint32_t{0};
  size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    uint64_t word;
    __builtin_memcpy(&word, data + i, sizeof(word));
    value = _mm_crc32_u64(value, word);
  }
  uint32_t rest = static_cast<uint32_t>(value);
  for (; i < size; ++i) rest = _mm_crc32_u8(rest, static_cast<unsigned char>(data[i]));
  return ~rest;
}
#endif

// TensorFlow masks checksums, so that one of data that has checksums in it is not weak.
uint32_t Masked(uint32_t checksum) { return (checksum >> 15 | checksum << 17) + 0xa282ead8u; }

bool Matches(std::string_view bytes, const char* checksum, CpuTarget target) {
  return Masked(Crc32c(bytes, target)) == Load<uint32_t>(checksum);
}

}  // namespace

uint32_t Crc32c(std::string_view bytes, CpuTarget target) {
#if defined(__x86_64__)
  if (target != CpuTarget::kBaseline) return CrcByInstruction(bytes.data(), bytes.size());
#endif
  return CrcByTable(bytes.data(), bytes.size());
}

RecordSplit SplitRecords(std::string_view bytes, CpuTarget target) {
  RecordSplit split;
  while (bytes.size() - split.end >= kHeadBytes) {
    const char* const head = bytes.data() + split.end;
    if (!Matches({head, 8}, head + 8, target)) {
      split.is_valid = false;
      break;
    }
    const uint64_t length = Load<uint64_t>(head), left = bytes.size() - split.end - kHeadBytes;
    // A length may be near 2^64, so nothing is added to it.
    if (left < kFootBytes || length > left - kFootBytes) break;
    const std::string_view record(head + kHeadBytes, length);
    if (!Matches(record, record.data() + length, target)) {
      split.is_valid = false;
      break;
    }
    split.records.push_back(record);
    split.end += kHeadBytes + length + kFootBytes;
  }
  return split;
}

}  // namespace tfps
