// The 64-bit fingerprint of a string that TensorFlow hashes strings with, so that an id is the same whoever computes it.
//
// It is FarmHash's Fingerprint64 (the "na" variant), which `tf.strings.to_hash_bucket_fast`, `tf.fingerprint` and BigQuery's
// FARM_FINGERPRINT use. It never changes: tables that were trained by it are on disks.
// Cost: about 3 ns for 8 bytes, 10 ns for 64. Threads: pure functions.
#ifndef TFPS_OPS_CORE_TEXT_FINGERPRINT_H_
#define TFPS_OPS_CORE_TEXT_FINGERPRINT_H_

#include <cstddef>
#include <cstdint>

namespace tfps {

// The fingerprint of `size` bytes; `bytes` may be null if there are none.
uint64_t Fingerprint64(const char* bytes, size_t size);

// The remainder by one divisor, many times: a product takes the place of each division, which is several times slower on
// CPUs older than 2019.
// Example: Remainder(10).Of(1234) is 4.
class Remainder {
 public:
  // `divisor` must be at least 1.
  explicit Remainder(uint64_t divisor) : divisor_(divisor), inverse_(UINT64_MAX / divisor) {}

  uint64_t Of(uint64_t value) const {
    // The inverse is rounded down, so the quotient is at most 2 too small.
    const uint64_t quotient = static_cast<uint64_t>((static_cast<unsigned __int128>(value) * inverse_) >> 64);
    uint64_t rest = value - quotient * divisor_;
    while (rest >= divisor_) rest -= divisor_;
    return rest;
  }

 private:
  uint64_t divisor_;
  uint64_t inverse_;
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_TEXT_FINGERPRINT_H_
