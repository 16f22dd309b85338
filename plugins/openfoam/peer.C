// SPDX-License-Identifier: GPL-3.0-or-later

#include "peer.H"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace penstock
{

namespace
{

#pragma pack(push, 1)
struct Head { char magic[4]; std::uint16_t version, kind; std::int64_t size; };
#pragma pack(pop)

const std::int64_t largest = std::int64_t(1) << 40;
const std::chrono::seconds beatPause(1);

// Seconds, seconds and probes, as in exchange.py: a node that is lost is known after half a minute
const int keepIdle = 10, keepInterval = 5, keepCount = 4;

[[noreturn]] void fail(const std::string& text) { throw std::runtime_error(text); }

int connectUnix(const std::string& path)
{
    sockaddr_un address;
    std::memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path)
        fail("the socket's path is longer than UNIX allows (" + std::to_string(sizeof address.sun_path - 1)
            + " bytes): " + path);
    std::memcpy(address.sun_path, path.c_str(), path.size());
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address))
        fail("nobody listens at unix:" + path + " (" + std::strerror(errno) + "); start the generator first");
    return fd;
}

int connectTcp(const std::string& where)
{
    const auto colon = where.rfind(':');
    if (colon == std::string::npos) fail("tcp:" + where + " has no port; write tcp:host:port");
    addrinfo wanted, *found = nullptr;
    std::memset(&wanted, 0, sizeof wanted);
    wanted.ai_socktype = SOCK_STREAM;
    const int bad = ::getaddrinfo(where.substr(0, colon).c_str(), where.substr(colon + 1).c_str(), &wanted, &found);
    if (bad) fail("tcp:" + where + " is no address (" + ::gai_strerror(bad) + ")");
    int fd = -1, why = 0;
    for (addrinfo* one = found; one && fd < 0; one = one->ai_next)
    {
        fd = ::socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC, one->ai_protocol);
        if (fd >= 0 && ::connect(fd, one->ai_addr, one->ai_addrlen)) { why = errno; ::close(fd); fd = -1; }
    }
    ::freeaddrinfo(found);
    if (fd < 0) fail("nobody listens at tcp:" + where + " (" + std::strerror(why) + "); start the generator first");
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &keepIdle, sizeof keepIdle);
    ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &keepInterval, sizeof keepInterval);
    ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &keepCount, sizeof keepCount);
    return fd;
}

[[noreturn]] void gone(const bool failed)
{
    if (failed && (errno == ETIMEDOUT || errno == EHOSTUNREACH || errno == ENETUNREACH))
        fail("the generator is gone: its node does not answer any more");
    fail("the generator is gone: it ended or was killed");
}

}

Peer::Peer(const std::string& address)
{
    if (!address.compare(0, 5, "unix:")) fd_ = connectUnix(address.substr(5));
    else if (!address.compare(0, 4, "tcp:")) fd_ = connectTcp(address.substr(4));
    else fail("address " + address + " is neither unix:/path nor tcp:host:port");
}

Peer::~Peer()
{
    {
        const std::lock_guard<std::mutex> mine(turn_);
        ended_ = true;
    }
    ending_.notify_all();
    if (beating_.joinable()) beating_.join();
    if (fd_ >= 0) ::close(fd_);
}

void Peer::startBeating()
{
    // Signals are the solver's: the thread is born with all of them blocked.
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    beating_ = std::thread(&Peer::beat, this);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Peer::beat()
{
    const Head frame = {{'P', 'S', 'T', 'K'}, version, alive, 0};
    std::unique_lock<std::mutex> mine(turn_);
    try
    {
        while (!ending_.wait_for(mine, beatPause, [this]{ return ended_; }))
            write(reinterpret_cast<const char*>(&frame), sizeof frame);
    }
    catch (const std::exception&) {}  // the solver finds out by itself, at its next exchange
}

void Peer::write(const char* data, std::size_t size)
{
    while (size)
    {
        const ssize_t done = ::send(fd_, data, size, MSG_NOSIGNAL);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) gone(done < 0);
        data += done;
        size -= done;
    }
}

void Peer::read(char* data, std::size_t size)
{
    while (size)
    {
        const ssize_t done = ::recv(fd_, data, size, 0);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) gone(done < 0);
        data += done;
        size -= done;
    }
}

void Peer::send(Kind kind, const void* head, std::size_t headSize, const void* rest, std::size_t restSize)
{
    // One system call for what is small; large fields are not copied.
    const std::lock_guard<std::mutex> mine(turn_);
    const bool together = restSize <= 65536;
    Head frame = {{'P', 'S', 'T', 'K'}, version, kind, std::int64_t(headSize + restSize)};
    buffer_.resize(sizeof frame + headSize + (together ? restSize : 0));
    std::memcpy(buffer_.data(), &frame, sizeof frame);
    std::memcpy(buffer_.data() + sizeof frame, head, headSize);
    if (together && restSize) std::memcpy(buffer_.data() + sizeof frame + headSize, rest, restSize);
    write(buffer_.data(), buffer_.size());
    if (!together) write(static_cast<const char*>(rest), restSize);
}

const std::vector<char>& Peer::receive(Kind kind)
{
    const std::lock_guard<std::mutex> mine(turn_);
    Head head;
    read(reinterpret_cast<char*>(&head), sizeof head);
    if (std::memcmp(head.magic, "PSTK", 4)) fail("what answers is not Penstock; look at the address");
    if (head.size < 0 || head.size > largest) fail("the generator sent a frame of impossible size");
    buffer_.resize(head.size);
    read(buffer_.data(), buffer_.size());
    // A failure's text is read in every version.
    if (head.kind == failure) fail("the generator says: " + std::string(buffer_.begin(), buffer_.end()));
    if (head.version != version)
        fail("the generator speaks version " + std::to_string(head.version) + " of the protocol, this plugin version "
            + std::to_string(version) + "; build plugins/openfoam again");
    if (head.kind != kind)
        fail("the generator sent frame " + std::to_string(head.kind) + " where frame " + std::to_string(kind)
            + " was due");
    return buffer_;
}

std::string token()
{
    if (const char* text = std::getenv("PENSTOCK_TOKEN")) return text;
    const char* path = std::getenv("PENSTOCK_TOKEN_FILE");
    if (!path) return "";
    std::ifstream file(path);
    std::string line;
    if (!std::getline(file, line)) fail("PENSTOCK_TOKEN_FILE names " + std::string(path) + ", which cannot be read");
    return line;
}

bool finite(const double* values, std::size_t count)
{
    // By the bits: OpenFOAM traps floating point exceptions.
    const std::uint64_t exponent = 0x7ff0000000000000;
    for (std::size_t i = 0; i < count; ++i)
    {
        std::uint64_t bits;
        std::memcpy(&bits, values + i, sizeof bits);
        if ((bits & exponent) == exponent) return false;
    }
    return true;
}

}
