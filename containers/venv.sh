# For /etc/profile.d: enroot and pyxis start a login shell, and Debian's /etc/profile sets PATH anew.
case ":${PATH-}:" in
    *:/opt/venv/bin:*) ;;
    *) export PATH="/opt/venv/bin:${PATH-}" ;;
esac
