#include "tfps_ops/core/growing/first_value.h"

#include <cmath>
#include <cstring>

namespace tfps {
namespace {

// A counter of Philox has 128 bits, and key * dim needs up to 127. `__extension__` tells -Wpedantic that this is meant.
__extension__ typedef unsigned __int128 Uint128;

constexpr int64_t kWords = 4;  // numbers of one Philox block

// Block number `counter` of the stream of `key`, ten rounds. The constants are those of the paper.
void Philox(uint64_t key, Uint128 counter, uint32_t* words) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = static_cast<uint32_t>(counter >> 64), c3 = static_cast<uint32_t>(counter >> 96);
  for (int round = 0; round < 10; ++round) {
    // Two multiplications of 32 bits whose upper and lower halves are the four new words.
    const uint64_t a = uint64_t{0xD2511F53} * c0, b = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

// 23 random bits as the fraction of a float in [1, 2), minus 1.
float UnitUniform(uint32_t word) {
  // For example word 0x400000: bits 0x3fc00000 are 1.5, and the result is 0.5. TensorFlow makes uniform floats in this way, and
  // only the same way gives the same rows.
  const uint32_t bits = (word & 0x7fffff) | 0x3f800000;
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f - 1.0f;
}

// Box and Muller 1958: two normal values from two uniform ones. The logarithm does not see 0.
void UnitNormals(uint32_t first, uint32_t second, float* out) {
  const float radius = std::sqrt(-2.0f * std::log(std::fmax(UnitUniform(first), 1.0e-7f)));
  const float angle = static_cast<float>(2 * 3.14159265358979323846 * UnitUniform(second));
  // Sine first, as TensorFlow does: the other order would swap neighbouring elements.
  out[0] = std::sin(angle) * radius;
  out[1] = std::cos(angle) * radius;
}

// Four numbers of the distribution with mean 0 (or from 0 on) and unit width.
void UnitValues(FirstValue::Kind kind, const uint32_t* words, float* out) {
  if (kind == FirstValue::Kind::kUniform) {
    for (int i = 0; i < kWords; ++i) out[i] = UnitUniform(words[i]);
    return;
  }
  // Four words make four values of either kind, so the number of an element means the same for both.
  UnitNormals(words[0], words[1], out);
  UnitNormals(words[2], words[3], out + 2);
}

Uint128 FirstCounter(const FirstValue& first) { return (Uint128{first.counter[1]} << 64) | first.counter[0]; }

// Elements [key * dim, key * dim + dim) of the stream of all rows.
void WriteFromOneStream(const FirstValue& first, uint64_t row_key, int64_t dim, float* out) {
  // For uniform rows b is the upper limit, for normal ones the deviation.
  const float scale = first.kind == FirstValue::Kind::kUniform ? first.b - first.a : first.b;
  // For example dim 6 and key 1: elements 6 to 11 are the upper two of block 1 and all of block 2.
  const Uint128 begin = Uint128{row_key} * static_cast<uint64_t>(dim);
  Uint128 counter = FirstCounter(first) + begin / kWords;
  // A row may begin and end within a block, whose other numbers are those of its neighbours.
  for (int64_t j = -static_cast<int64_t>(begin % kWords); j < dim; j += kWords) {
    uint32_t words[kWords];
    float values[kWords];
    Philox(first.key, counter++, words);
    UnitValues(first.kind, words, values);
    for (int64_t i = 0; i < kWords; ++i) {
      if (j + i >= 0 && j + i < dim) out[j + i] = values[i] * scale + first.a;
    }
  }
}

// How many numbers a row takes is not known before, so the stream of a row begins at (key * 2^64) from the table's.
void WriteTruncated(const FirstValue& first, uint64_t row_key, int64_t dim, float* out) {
  // 2^64 blocks for each key: no row ever reaches the stream of the next one.
  Uint128 counter = FirstCounter(first) + (Uint128{row_key} << 64);
  for (int64_t j = 0; j < dim;) {
    uint32_t words[kWords];
    float values[kWords];
    Philox(first.key, counter++, words);
    UnitValues(first.kind, words, values);
    for (int64_t i = 0; i < kWords && j < dim; ++i) {
      // About 1 value in 22 is drawn again.
      if (std::fabs(values[i]) < 2) out[j++] = values[i] * first.b + first.a;
    }
  }
}

}  // namespace

void WriteFirstValue(const FirstValue& first, int64_t row_key, int64_t dim, float* out) {
  switch (first.kind) {
    case FirstValue::Kind::kConstant:
      for (int64_t j = 0; j < dim; ++j) out[j] = first.a;
      return;
    case FirstValue::Kind::kUniform:
    case FirstValue::Kind::kNormal:
      return WriteFromOneStream(first, static_cast<uint64_t>(row_key), dim, out);
    case FirstValue::Kind::kTruncatedNormal:
      return WriteTruncated(first, static_cast<uint64_t>(row_key), dim, out);
  }
}

float MeanFirstValue(const FirstValue& first) {
  // A truncated normal is cut on both sides alike, so its mean is a.
  return first.kind == FirstValue::Kind::kUniform ? (first.a + first.b) / 2 : first.a;
}

}  // namespace tfps
