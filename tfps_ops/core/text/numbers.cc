#include "tfps_ops/core/text/numbers.h"

#include <charconv>
#include <cstring>
#include <limits>
#include <system_error>

namespace tfps {
namespace {

// So many digits fit 64 bits, whatever they are.
constexpr int kMostDigits = 18;
// Powers of ten that a double has exactly; a product or quotient of two exact numbers is rounded once, and so is the nearest.
constexpr int kMostPower = 22;
constexpr double kPowers[kMostPower + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                            1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
// No exponent that is larger is read; it keeps the sum of digits from running over.
constexpr int kMostExponent = 9999;

inline bool IsDigit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

// A number as its parts: (-1)^negative * digits * 10^exponent. Example: "-1.50e3" is 150 * 10^1, negative.
struct Decimal {
  bool negative = false;
  uint64_t digits = 0;
  int count = 0;  // of digits, without zeros in front; more than kMostDigits: `digits` is not all of them
  int exponent = 0;
};

// Reads digits into `number` and returns where they end.
inline const char* ReadDigits(const char* at, const char* end, Decimal* number) {
  for (; at != end && IsDigit(*at); ++at) {
    // A number with too many digits is read another way, and may run over here.
    number->digits = number->digits * 10 + static_cast<uint64_t>(*at - '0');
    number->count += number->digits != 0;
  }
  return at;
}

// Reads what follows an "e". Returns whether it is an exponent and nothing else.
bool ReadExponent(const char* at, const char* end, Decimal* number) {
  const bool negative = at != end && *at == '-';
  if (at != end && (*at == '-' || *at == '+')) ++at;
  if (at == end) return false;
  int exponent = 0;
  for (; at != end; ++at) {
    if (!IsDigit(*at) || exponent > kMostExponent) return false;
    exponent = exponent * 10 + (*at - '0');
  }
  number->exponent += negative ? -exponent : exponent;
  return true;
}

// Returns whether all of the text is a number.
bool ReadDecimal(const char* at, const char* end, Decimal* number) {
  number->negative = at != end && *at == '-';
  if (number->negative) ++at;
  const char* const begin = at;
  at = ReadDigits(at, end, number);
  int64_t read = at - begin;
  if (at != end && *at == '.') {
    const char* const fraction = ++at;
    at = ReadDigits(at, end, number);
    const int64_t places = at - fraction;
    if (places > kMostExponent) return false;
    read += places;
    number->exponent = -static_cast<int>(places);
  }
  if (read == 0) return false;
  if (at == end) return true;
  return (*at == 'e' || *at == 'E') && ReadExponent(at + 1, end, number);
}

// Returns whether the number is an exact double or one product or quotient away from it, and reads it.
bool ReadQuickly(const Decimal& number, double* value) {
  constexpr uint64_t kExact = uint64_t{1} << 53;
  const int power = number.exponent;
  if (number.count > kMostDigits || number.digits > kExact || power > kMostPower || power < -kMostPower) return false;
  const double digits = static_cast<double>(number.digits);
  const double size = power < 0 ? digits / kPowers[-power] : digits * kPowers[power];
  *value = number.negative ? -size : size;
  return true;
}

// Whether a double that was rounded may be rounded again to a float. Only one that is exactly between two floats may not, because
// the first step may have brought it there; nor one outside the floats of full precision.
bool RoundsToFloat(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  constexpr uint64_t kBelowFloat = (uint64_t{1} << 29) - 1, kHalf = uint64_t{1} << 28;
  const double size = value < 0 ? -value : value;
  const bool is_usual = size >= std::numeric_limits<float>::min() && size < std::numeric_limits<float>::max();
  return size == 0 || (is_usual && (bits & kBelowFloat) != kHalf);
}

template <class Float>
bool ReadSlowly(const char* begin, const char* end, Float* value) {
#if defined(__cpp_lib_to_chars)
  const std::from_chars_result result = std::from_chars(begin, end, *value);
  return result.ec == std::errc() && result.ptr == end;
#else
  return false;
#endif
}

// Missing values are often written so. They are as quick as numbers, since a column may have many.
template <class Float>
bool ReadWord(const char* begin, const char* end, Float* value) {
  const bool negative = begin != end && *begin == '-';
  const char* const word = begin + negative;
  if (end - word != 3) return false;
  if (std::memcmp(word, "nan", 3) == 0 || std::memcmp(word, "NaN", 3) == 0) {
    *value = std::numeric_limits<Float>::quiet_NaN();
    return !negative;
  }
  if (std::memcmp(word, "inf", 3) != 0) return false;
  *value = negative ? -std::numeric_limits<Float>::infinity() : std::numeric_limits<Float>::infinity();
  return true;
}

inline bool IsExact(double /*value*/, const double* /*wanted*/) { return true; }
inline bool IsExact(double value, const float* /*wanted*/) { return RoundsToFloat(value); }

template <class Float>
bool Read(const char* begin, const char* end, Float* value) {
  Decimal number;
  if (!ReadDecimal(begin, end, &number)) return ReadWord(begin, end, value);
  double quick;
  if (!ReadQuickly(number, &quick) || !IsExact(quick, value)) return ReadSlowly(begin, end, value);
  *value = static_cast<Float>(quick);
  return true;
}

}  // namespace

bool ReadInteger(const char* begin, const char* end, int64_t* value) {
  const bool negative = begin != end && *begin == '-';
  begin += negative;
  if (begin == end || end - begin > kMostDigits) return false;
  int64_t digits = 0;
  for (; begin != end; ++begin) {
    if (!IsDigit(*begin)) return false;
    digits = digits * 10 + (*begin - '0');
  }
  *value = negative ? -digits : digits;
  return true;
}

bool ReadFloat(const char* begin, const char* end, float* value) { return Read(begin, end, value); }
bool ReadFloat(const char* begin, const char* end, double* value) { return Read(begin, end, value); }

}  // namespace tfps
