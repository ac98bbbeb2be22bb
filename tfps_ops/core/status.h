// How the core says that something is wrong: one value, for every function that can refuse its arguments.
//
// A Status is OK, or a code with a message that says what was received and what is valid. A Result is a value or the Status
// that stands in its place. The core throws nothing and returns no null, -1 or "" for an error. absl::Status would do, but
// the core builds without TensorFlow and what comes with it; kernels/status_conversion.h turns ours into TensorFlow's.
//
// Example:
//   if (row >= rows) return InvalidArgument("`row` must be below ", rows, ". Received: ", row, ".");
//
// Cost: an OK status is an empty string and an enum, and allocates nothing. Messages are built only where a check failed.
#ifndef TFPS_OPS_CORE_STATUS_H_
#define TFPS_OPS_CORE_STATUS_H_

#include <sstream>
#include <string>
#include <utility>
#include <variant>

namespace tfps {

enum class StatusCode {
  kOk,
  kInvalidArgument,     // the caller's values break a rule, whatever the state of the store
  kFailedPrecondition,  // the values may be right, but the store is not ready for them
  kResourceExhausted,   // there is no memory for the work
};

// [[nodiscard]]: an error that nobody looks at is a bug.
class [[nodiscard]] Status {
 public:
  // OK.
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

  // Example: InvalidArgument("rows must be ...").Prefixed("table 3: ") says "table 3: rows must be ...".
  // The same error with words in front of it that only the caller knows, such as "table 3: ". OK stays OK.
  Status Prefixed(const std::string& prefix) const { return ok() ? *this : Status(code_, prefix + message_); }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

// The text of all parts, one after the other; anything that a stream can print.
template <class... Parts>
std::string Concatenated(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

template <class... Parts>
Status InvalidArgument(const Parts&... parts) {
  return Status(StatusCode::kInvalidArgument, Concatenated(parts...));
}

template <class... Parts>
Status FailedPrecondition(const Parts&... parts) {
  return Status(StatusCode::kFailedPrecondition, Concatenated(parts...));
}

template <class... Parts>
Status ResourceExhausted(const Parts&... parts) {
  return Status(StatusCode::kResourceExhausted, Concatenated(parts...));
}

// A value, or why there is none. The value may be moved out and need not be copyable.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : content_(std::move(value)) {}        // implicit, so that a function just returns its value
  Result(Status status) : content_(std::move(status)) {}  // implicit for the same reason; must not be OK

  bool ok() const { return std::holds_alternative<T>(content_); }
  // OK where there is a value.
  Status status() const { return ok() ? Status() : std::get<Status>(content_); }
  // Only where ok(): std::get throws otherwise.
  T& value() { return std::get<T>(content_); }
  const T& value() const { return std::get<T>(content_); }

 private:
  std::variant<Status, T> content_;
};

// Returns from the calling function if the expression is an error.
#define TFPS_RETURN_IF_ERROR(expression)              \
  do {                                                \
    ::tfps::Status tfps_status_ = (expression);       \
    if (!tfps_status_.ok()) return tfps_status_;      \
  } while (false)

}  // namespace tfps

#endif  // TFPS_OPS_CORE_STATUS_H_
