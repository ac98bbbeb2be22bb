// Which address a socket of this process binds, and which it connects to: rules without TensorFlow, and without a system call.
//
// TensorFlow's server binds every interface of a host, whatever the cluster says, and has no setting for that. tfps calls these
// rules from where TensorFlow calls `bind` and `connect` (tfps_ops/sockets/socket_hooks.cc).
//
// Threading: BoundAddress is called with what the caller owns. Redirects may be used by many threads at once.
// Cost: no allocation and no lock on the way of a call; `Add` copies the table.
#ifndef TFPS_OPS_CORE_SOCKETS_ADDRESS_RULES_H_
#define TFPS_OPS_CORE_SOCKETS_ADDRESS_RULES_H_

#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "tfps_ops/core/status.h"

namespace tfps {

// An IP address and a port, in the form of IPv6: 127.0.0.1 is ::ffff:127.0.0.1. So equal addresses have equal bytes, whichever
// kind of socket uses them.
struct SocketAddress {
  in6_addr host;
  uint16_t port;  // in the byte order of this machine

  // Example: SocketAddress::Parse("10.0.0.7", 2222). An error for anything but an address; names are not resolved.
  static Result<SocketAddress> Parse(const char* host, int port);

  // The address that a call was given; nothing for other families, such as sockets of the file system.
  static std::optional<SocketAddress> From(const sockaddr* address, socklen_t length);

  // Whether the host is "every interface": 0.0.0.0, :: or ::ffff:0.0.0.0.
  bool IsWildcard() const;
  bool IsIpv4() const;
  bool SameHost(const SocketAddress& other) const;

  // Writes host and port over an address that `From` has read, which keeps its family. False where that is impossible: an IPv6
  // host for a socket of IPv4.
  bool WriteTo(sockaddr_storage* address) const;
};

// What a socket binds that asks for `wanted` while TensorFlow's server shall listen at `host` alone: the same port of that host.
// Only a wildcard is replaced. Nothing where the address stays as it is.
std::optional<SocketAddress> BoundAddress(const SocketAddress& wanted, const SocketAddress& host);

// A table of addresses that connections are led away from: a peer's address in the cluster -> a door of this process's tunnel.
// Readers take no lock. A table that was replaced is kept until the process ends, because a reader may still look at it; there
// are as many as calls of `Add`.
class Redirects {
 public:
  ~Redirects();
  // Leads connections to `from` to `to`, from the next connection on.
  void Add(const SocketAddress& from, const SocketAddress& to);
  // Where a connection to `wanted` goes; nothing where it goes where it wants.
  std::optional<SocketAddress> Find(const SocketAddress& wanted) const;

 private:
  struct Entry {
    SocketAddress from, to;
  };
  using Table = std::vector<Entry>;
  std::mutex adding_;  // one writer at a time; guards `all_`
  std::vector<const Table*> all_;
  std::atomic<const Table*> current_{nullptr};
};

}  // namespace tfps

#endif  // TFPS_OPS_CORE_SOCKETS_ADDRESS_RULES_H_
