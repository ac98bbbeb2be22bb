// Reads numbers as text: plain decimal ones. What it does not know, it refuses; whoever calls has a slower reader for that.
//
// A number that is read is the nearest one, as by every correct reader, so that both readers give the same bits.
// Cost: about 1 ns and 1 ns a digit. Threads: pure functions.
#ifndef TFPS_OPS_CORE_TEXT_NUMBERS_H_
#define TFPS_OPS_CORE_TEXT_NUMBERS_H_

#include <cstdint>

namespace tfps {

// Reads an integer of up to 18 digits, with a minus or without, and nothing else. Returns whether it is one.
// Example: "-7" and "007" are read; "+7", "7.0", " 7" and "" are not.
bool ReadInteger(const char* begin, const char* end, int64_t* value);

// Reads a number with a point and an exponent or without, or "nan" or "inf" in small letters or as "NaN".
// Example: "-1.5", ".5", "5.", "1e-3" are read; "+1", "1e", "0x1" are not.
// Numbers that are too large or too small are not read either, nor, where the compiler has no std::from_chars for floats, those
// with many digits.
bool ReadFloat(const char* begin, const char* end, float* value);
bool ReadFloat(const char* begin, const char* end, double* value);

}  // namespace tfps

#endif  // TFPS_OPS_CORE_TEXT_NUMBERS_H_
