#include "tfps_ops/core/sockets/address_rules.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

namespace tfps {
namespace {

// An IPv4 address in the form of IPv6 begins with these bytes, and its own four follow.
constexpr unsigned char kIpv4Prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

// IPv4 addresses are kept in the form of IPv6, so that one comparison serves both families.
in6_addr Mapped(const in_addr& host) {
  in6_addr mapped;
  std::memcpy(mapped.s6_addr, kIpv4Prefix, sizeof(kIpv4Prefix));
  std::memcpy(mapped.s6_addr + sizeof(kIpv4Prefix), &host, sizeof(host));
  return mapped;
}

bool SameAddress(const SocketAddress& a, const SocketAddress& b) { return a.SameHost(b) && a.port == b.port; }

}  // namespace

Result<SocketAddress> SocketAddress::Parse(const char* host, int port) {
  // The port comes from Python, as an int of any size.
  if (port < 0 || port > 65535) return InvalidArgument("`port` must be from 0 to 65535. Received: ", port, ".");
  SocketAddress parsed{{}, static_cast<uint16_t>(port)};
  // No names: a lookup could take seconds, and give another address each time.
  in_addr ipv4;
  if (inet_pton(AF_INET, host, &ipv4) == 1) {
    parsed.host = Mapped(ipv4);
  } else if (inet_pton(AF_INET6, host, &parsed.host) != 1) {
    return InvalidArgument("`host` must be an IP address. Received: ", host, ".");
  }
  return parsed;
}

std::optional<SocketAddress> SocketAddress::From(const sockaddr* address, socklen_t length) {
  // The caller's memory may hold less than its family needs; the kernel refuses that, so it stays as it is.
  if (address == nullptr || length < sizeof(sa_family_t)) return std::nullopt;
  // Copied, because the caller's memory may be of any alignment.
  if (address->sa_family == AF_INET && length >= sizeof(sockaddr_in)) {
    sockaddr_in in;
    std::memcpy(&in, address, sizeof(in));
    return SocketAddress{Mapped(in.sin_addr), ntohs(in.sin_port)};
  }
  if (address->sa_family == AF_INET6 && length >= sizeof(sockaddr_in6)) {
    sockaddr_in6 in;
    std::memcpy(&in, address, sizeof(in));
    return SocketAddress{in.sin6_addr, ntohs(in.sin6_port)};
  }
  return std::nullopt;
}

bool SocketAddress::IsIpv4() const { return std::memcmp(host.s6_addr, kIpv4Prefix, sizeof(kIpv4Prefix)) == 0; }

bool SocketAddress::IsWildcard() const {
  // 0.0.0.0 has zeros behind the prefix alone, and :: has nothing else.
  const auto zero = [](unsigned char byte) { return byte == 0; };
  const unsigned char* first = host.s6_addr + (IsIpv4() ? sizeof(kIpv4Prefix) : 0);
  return std::all_of(first, host.s6_addr + sizeof(host.s6_addr), zero);
}

bool SocketAddress::SameHost(const SocketAddress& other) const {
  return std::memcmp(host.s6_addr, other.host.s6_addr, sizeof(host.s6_addr)) == 0;
}

bool SocketAddress::WriteTo(sockaddr_storage* address) const {
  // The family is that of the socket, which the address has to fit. The scope of IPv6 stays as it is.
  if (address->ss_family == AF_INET6) {
    auto* in = reinterpret_cast<sockaddr_in6*>(address);
    in->sin6_addr = host;
    in->sin6_port = htons(port);
    return true;
  }
  if (address->ss_family != AF_INET || !IsIpv4()) return false;
  auto* in = reinterpret_cast<sockaddr_in*>(address);
  std::memcpy(&in->sin_addr, host.s6_addr + sizeof(kIpv4Prefix), sizeof(in->sin_addr));
  in->sin_port = htons(port);
  return true;
}

std::optional<SocketAddress> BoundAddress(const SocketAddress& wanted, const SocketAddress& host) {
  // A socket that asks for one address knows what it wants.
  if (!wanted.IsWildcard()) return std::nullopt;
  return SocketAddress{host.host, wanted.port};
}

Redirects::~Redirects() {
  for (const Table* table : all_) delete table;
}

void Redirects::Add(const SocketAddress& from, const SocketAddress& to) {
  const std::lock_guard<std::mutex> lock(adding_);
  // Only this function stores, under the lock, so a relaxed load sees the last table.
  const Table* before = current_.load(std::memory_order_relaxed);
  auto* table = before == nullptr ? new Table() : new Table(*before);
  // The newest entry of an address counts, so it comes first.
  table->insert(table->begin(), Entry{from, to});
  // Kept until the end: another thread may still look at an older one. A cluster adds a few dozen.
  all_.push_back(table);
  current_.store(table, std::memory_order_release);
}

std::optional<SocketAddress> Redirects::Find(const SocketAddress& wanted) const {
  // No lock: every connection of TensorFlow comes here.
  const Table* table = current_.load(std::memory_order_acquire);
  if (table == nullptr) return std::nullopt;
  for (const Entry& entry : *table) {
    if (SameAddress(entry.from, wanted)) return entry.to;
  }
  return std::nullopt;
}

}  // namespace tfps
