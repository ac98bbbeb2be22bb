// A bijection of 64-bit words that depends on a secret: keys become evenly spread words, and words become keys again.
//
// The table stores words in place of keys. The top bits of a word choose its segment, others its bucket and its tag; ids that
// follow each other, or that differ in few bits, go far apart. Whoever does not know the secret cannot choose keys that meet.
#ifndef TFPS_OPS_CORE_GROWING_KEY_MIX_H_
#define TFPS_OPS_CORE_GROWING_KEY_MIX_H_

#include <cstdint>

namespace tfps {

class KeyMix {
 public:
  // Two numbers from one secret; the odd constant keeps them different for the secret 0.
  explicit KeyMix(uint64_t secret) : before_(secret), between_(Scramble(secret + 0x9E3779B97F4A7C15)) {}

  // Two rounds with the secret before each: one would leave differences of keys predictable.
  // A bijection has no two keys with one word, so comparing words is comparing keys.
  uint64_t WordOf(int64_t key) const { return Scramble(Scramble(static_cast<uint64_t>(key) ^ before_) + between_); }
  int64_t KeyOf(uint64_t word) const {
    return static_cast<int64_t>(Unscramble(Unscramble(word) - between_) ^ before_);
  }

 private:
  // The finalizer of MurmurHash3. Each line can be undone: odd factors have an inverse, and a shift by half or more undoes
  // itself.
  static uint64_t Scramble(uint64_t x) {
    x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCD;
    x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53;
    return x ^ (x >> 33);
  }
  // The factors are the inverses modulo 2^64 of those above, in the reverse order.
  static uint64_t Unscramble(uint64_t x) {
    x = (x ^ (x >> 33)) * 0x9CB4B2F8129337DB;
    x = (x ^ (x >> 33)) * 0x4F74430C22A54005;
    return x ^ (x >> 33);
  }

  const uint64_t before_, between_;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_GROWING_KEY_MIX_H_
