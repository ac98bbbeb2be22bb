// Addresses as calls of `bind` and `connect` bring them, in both families.
#include "tfps_ops/core/sockets/address_rules.h"

#include <arpa/inet.h>

#include <cstring>
#include <string>
#include <thread>

#include "tfps_ops/core/testing.h"

namespace tfps {
namespace {

SocketAddress At(const char* host, int port = 0) { return ValueOf(SocketAddress::Parse(host, port)); }

sockaddr_storage Raw(int family, const char* host, int port) {
  sockaddr_storage raw = {};
  raw.ss_family = family;
  if (family == AF_INET) {
    auto* in = reinterpret_cast<sockaddr_in*>(&raw);
    TFPS_CHECK(inet_pton(family, host, &in->sin_addr) == 1);
    in->sin_port = htons(port);
  } else {
    auto* in = reinterpret_cast<sockaddr_in6*>(&raw);
    TFPS_CHECK(inet_pton(family, host, &in->sin6_addr) == 1);
    in->sin6_port = htons(port);
  }
  return raw;
}

SocketAddress Read(const sockaddr_storage& raw) {
  const auto found = SocketAddress::From(reinterpret_cast<const sockaddr*>(&raw), sizeof(raw));
  TFPS_CHECK(found.has_value());
  return *found;
}

bool Same(const SocketAddress& a, const SocketAddress& b) { return a.SameHost(b) && a.port == b.port; }

TFPS_TEST(EveryFormOfEveryInterfaceIsAWildcardAndNothingElseIs) {
  TFPS_CHECK(Read(Raw(AF_INET, "0.0.0.0", 1)).IsWildcard());
  TFPS_CHECK(Read(Raw(AF_INET6, "::", 1)).IsWildcard());
  TFPS_CHECK(Read(Raw(AF_INET6, "::ffff:0.0.0.0", 1)).IsWildcard());
  for (const char* host : {"127.0.0.1", "10.0.0.0", "::1", "::ffff:10.0.0.7", "fe80::"}) TFPS_CHECK(!At(host).IsWildcard());
}

TFPS_TEST(OneAddressIsEqualInBothFamilies) {
  TFPS_CHECK(Same(Read(Raw(AF_INET, "10.0.0.7", 80)), Read(Raw(AF_INET6, "::ffff:10.0.0.7", 80))));
  TFPS_CHECK(!Same(At("10.0.0.7", 80), At("10.0.0.7", 81)));
}

TFPS_TEST(AWildcardBecomesTheHostWithItsPortInItsFamily) {
  for (int family : {AF_INET, AF_INET6}) {
    sockaddr_storage raw = Raw(family, family == AF_INET ? "0.0.0.0" : "::", 2222);
    const auto bound = BoundAddress(Read(raw), At("127.0.0.1"));
    TFPS_CHECK(bound && bound->WriteTo(&raw));
    TFPS_CHECK(raw.ss_family == family && Same(Read(raw), At("127.0.0.1", 2222)));
  }
  TFPS_CHECK(!BoundAddress(At("10.0.0.7", 1), At("127.0.0.1")));
}

TFPS_TEST(AnIpv6HostDoesNotFitASocketOfIpv4) {
  sockaddr_storage four = Raw(AF_INET, "0.0.0.0", 1), six = Raw(AF_INET6, "::", 1);
  TFPS_CHECK(!At("::1", 1).WriteTo(&four) && Read(four).IsWildcard());
  TFPS_CHECK(At("::1", 1).WriteTo(&six) && Same(Read(six), At("::1", 1)));
}

TFPS_TEST(OtherFamiliesAndShortAddressesAreNotRead) {
  sockaddr_storage raw = Raw(AF_INET6, "::", 1);
  const auto* address = reinterpret_cast<const sockaddr*>(&raw);
  TFPS_CHECK(!SocketAddress::From(address, sizeof(sockaddr_in)));
  TFPS_CHECK(!SocketAddress::From(address, 0) && !SocketAddress::From(nullptr, sizeof(raw)));
  raw.ss_family = AF_UNIX;
  TFPS_CHECK(!SocketAddress::From(address, sizeof(raw)));
}

TFPS_TEST(NamesAndWrongPortsAreRefused) {
  for (const char* host : {"localhost", "", "10.0.0", "10.0.0.256", "[::1]"}) TFPS_CHECK(!SocketAddress::Parse(host, 1).ok());
  for (int port : {-1, 65536}) TFPS_CHECK(!SocketAddress::Parse("::1", port).ok());
}

TFPS_TEST(ARedirectLeadsItsAddressAloneAndTheNewestCounts) {
  Redirects redirects;
  TFPS_CHECK(!redirects.Find(At("127.77.0.1", 2222)));
  redirects.Add(At("127.77.0.1", 2222), At("127.0.0.1", 5000));
  redirects.Add(At("127.77.0.2", 2222), At("127.0.0.1", 5001));
  redirects.Add(At("127.77.0.1", 2222), At("127.0.0.1", 5002));
  TFPS_CHECK(Same(*redirects.Find(At("::ffff:127.77.0.1", 2222)), At("127.0.0.1", 5002)));
  TFPS_CHECK(Same(*redirects.Find(At("127.77.0.2", 2222)), At("127.0.0.1", 5001)));
  TFPS_CHECK(!redirects.Find(At("127.77.0.1", 2223)) && !redirects.Find(At("127.77.0.3", 2222)));
}

TFPS_TEST(ConnectionsMayLookWhileRedirectsAreAdded) {
  Redirects redirects;
  std::thread looking([&] {
    for (int i = 0; i < 2000; ++i) {
      const auto found = redirects.Find(At("127.77.0.1", 7));
      TFPS_CHECK(!found || found->port == 7);
    }
  });
  for (int port = 0; port < 200; ++port) redirects.Add(At("127.77.0.1", port), At("127.0.0.1", port));
  looking.join();
}

}  // namespace
}  // namespace tfps
