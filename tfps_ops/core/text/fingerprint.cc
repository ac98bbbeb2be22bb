// FarmHash's Fingerprint64, by length: up to 16 bytes, up to 32, up to 64, and blocks of 64 for longer strings.
//
// Source: G. Pike, FarmHash, 2014. The constants are part of the definition. Words are read in the order of bytes of
// x86-64 and AArch64, little end first.
#include "tfps_ops/core/text/fingerprint.h"

#include <cstring>
#include <utility>

namespace tfps {
namespace {

constexpr uint64_t kFirst = 0xc3a5c85c97cb3127u;
constexpr uint64_t kSecond = 0xb492b66fbe98f273u;
constexpr uint64_t kThird = 0x9ae16a3b2f90404fu;

template <class Word>
inline uint64_t Load(const char* bytes) {
  Word word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

inline uint64_t Load64(const char* bytes) { return Load<uint64_t>(bytes); }
// 0 < shift < 64.
inline uint64_t RotateRight(uint64_t x, int shift) { return (x >> shift) | (x << (64 - shift)); }
inline uint64_t Fold(uint64_t x) { return x ^ (x >> 47); }

// Two words to one.
inline uint64_t Mix(uint64_t u, uint64_t v, uint64_t factor) {
  const uint64_t a = Fold((u ^ v) * factor);
  return Fold((v ^ a) * factor) * factor;
}

// The factor depends on the length, so that strings which differ by zeros at their end differ.
inline uint64_t FactorOf(size_t size) { return kThird + size * 2; }

inline uint64_t UpTo16(const char* s, size_t size) {
  if (size >= 8) {
    const uint64_t factor = FactorOf(size), a = Load64(s) + kThird, b = Load64(s + size - 8);
    return Mix(RotateRight(b, 37) * factor + a, (RotateRight(a, 25) + b) * factor, factor);
  }
  if (size >= 4) return Mix(size + (Load<uint32_t>(s) << 3), Load<uint32_t>(s + size - 4), FactorOf(size));
  if (size == 0) return kThird;
  // The first, the middle and the last byte, which are all bytes of up to three.
  const uint32_t first = Load<uint8_t>(s), middle = Load<uint8_t>(s + (size >> 1)), last = Load<uint8_t>(s + size - 1);
  const uint32_t y = first + (middle << 8), z = static_cast<uint32_t>(size) + (last << 2);
  return Fold(y * kThird ^ z * kFirst) * kThird;
}

inline uint64_t UpTo32(const char* s, size_t size) {
  const uint64_t factor = FactorOf(size), a = Load64(s) * kSecond, b = Load64(s + 8);
  const uint64_t c = Load64(s + size - 8) * factor, d = Load64(s + size - 16) * kThird;
  return Mix(RotateRight(a + b, 43) + RotateRight(c, 30) + d, a + RotateRight(b + kThird, 18) + c, factor);
}

uint64_t UpTo64(const char* s, size_t size) {
  const uint64_t factor = FactorOf(size), a = Load64(s) * kThird, b = Load64(s + 8);
  const uint64_t c = Load64(s + size - 8) * factor, d = Load64(s + size - 16) * kThird;
  const uint64_t y = RotateRight(a + b, 43) + RotateRight(c, 30) + d;
  const uint64_t z = Mix(y, a + RotateRight(b + kThird, 18) + c, factor);
  const uint64_t e = Load64(s + 16) * factor, f = Load64(s + 24);
  const uint64_t g = (y + Load64(s + size - 32)) * factor, h = (z + Load64(s + size - 24)) * factor;
  return Mix(RotateRight(e + f, 43) + RotateRight(g, 30) + h, e + RotateRight(f + a, 18) + g, factor);
}

using Pair = std::pair<uint64_t, uint64_t>;

// 32 bytes and two seeds to two words.
inline Pair Mix32(const char* s, uint64_t a, uint64_t b) {
  const uint64_t first = Load64(s), last = Load64(s + 24);
  a += first;
  b = RotateRight(b + a + last, 21);
  const uint64_t before = a;
  a += Load64(s + 8) + Load64(s + 16);
  b += RotateRight(a, 44);
  return {a + last, b + before};
}

// What is carried from block to block of a long string.
struct State {
  uint64_t x, y, z;
  Pair v, w;

  // Takes in 64 bytes. The last block of a string has a factor and a weight of its own.
  void Take(const char* s, uint64_t factor, uint64_t weight) {
    x = RotateRight(x + y + v.first + Load64(s + 8), 37) * factor;
    y = RotateRight(y + v.second + Load64(s + 48), 42) * factor;
    x ^= w.second * weight;
    y += v.first * weight + Load64(s + 40);
    z = RotateRight(z + w.first, 33) * factor;
    v = Mix32(s, v.second * factor, x + w.first);
    w = Mix32(s + 32, z + w.second, y + Load64(s + 16));
    std::swap(z, x);
  }
};

uint64_t Long(const char* s, size_t size) {
  constexpr uint64_t kSeed = 81;
  State state{kSeed, kSeed * kSecond + 113, 0, {0, 0}, {0, 0}};
  state.z = Fold(state.y * kThird + 113) * kThird;
  state.x = state.x * kThird + Load64(s);
  // Whole blocks but the last, which is the last 64 bytes and may overlap the one before it.
  const size_t blocks = (size - 1) / 64, rest = (size - 1) & 63;
  for (size_t i = 0; i < blocks; ++i) state.Take(s + 64 * i, kSecond, 1);
  const uint64_t factor = kSecond + ((state.z & 0xff) << 1);
  state.w.first += rest;
  state.v.first += state.w.first;
  state.w.first += state.v.first;
  state.Take(s + size - 64, factor, 9);
  return Mix(Mix(state.v.first, state.w.first, factor) + Fold(state.y) * kFirst + state.z,
             Mix(state.v.second, state.w.second, factor) + state.x, factor);
}

}  // namespace

uint64_t Fingerprint64(const char* bytes, size_t size) {
  // Most words of a click log have 8 bytes, so the shortest strings are asked for first.
  if (size <= 16) return UpTo16(bytes, size);
  if (size <= 32) return UpTo32(bytes, size);
  if (size <= 64) return UpTo64(bytes, size);
  return Long(bytes, size);
}

}  // namespace tfps
